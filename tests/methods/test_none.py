import torch.nn.functional as F

from kdcache.cache import Cache
from kdcache.methods import StandaloneConfig
from kdcache.methods.none import Standalone
from kdcache.models import StudentSpec
from tests.methods.support import one_batch, student_says, targets_of


def test_labels_only(tiny_cache: Cache) -> None:
    batch = one_batch(tiny_cache)
    logits, _ = student_says(4)
    terms = Standalone(StandaloneConfig(label_smoothing=0.2)).loss(logits, None, batch.labels, targets_of(batch), None)
    assert set(terms) == {"loss", "ce"}
    assert float(terms["loss"]) == float(F.cross_entropy(logits, batch.labels, label_smoothing=0.2))


def test_the_student_is_left_as_it_is() -> None:
    spec = StudentSpec(name="m", num_classes=3, image_size=16, block=2)
    changed = Standalone(StandaloneConfig()).change(spec, teacher_width=24)
    assert (changed.change, changed.width, changed.block) == ("none", 0, None)
