from kdcache.methods import LiftConfig
from kdcache.methods.lift import LiftMethod
from kdcache.models import StudentSpec


def test_the_student_takes_the_teachers_width() -> None:
    spec = StudentSpec(name="deit_tiny_patch16_224", num_classes=1000, image_size=224)
    changed = LiftMethod(LiftConfig()).change(spec, teacher_width=384)
    assert (changed.change, changed.width, changed.block) == ("lift", 384, -1)


def test_nothing_is_dropped_at_inference() -> None:
    assert LiftMethod(LiftConfig()).adapter(384, 384) is None
