import pytest

from kdcache.cache import Cache
from kdcache.errors import UsageError
from kdcache.methods.lift import lift
from kdcache.students.lift import LiftChange
from kdcache.train.setup import prepare
from tests.train.support import tiny_run


def test_the_student_takes_the_teachers_width(tiny_cache: Cache) -> None:
    setup = prepare(tiny_run(), tiny_cache)
    assert setup.spec.change == LiftChange(width=24)
    assert [str(tap) for tap in setup.step.student.taps] == ["change/tokens"]
    assert [name for name, _ in setup.step.named_parameters() if name.startswith("adapters")] == []


def test_another_width_is_for_controls(tiny_cache: Cache) -> None:
    assert prepare(tiny_run(method=lift(width=40, feature_weight=0)), tiny_cache).spec.change.width == 40
    with pytest.raises(UsageError, match=r"tokens have 40 channels and .*blocks.1/patch \(fp16\) has 24"):
        prepare(tiny_run(method=lift(width=40, teacher=("blocks.1/patch",))), tiny_cache)
