from kdcache.cache import Cache
from kdcache.methods.wide_last import wide_last
from kdcache.students.wide_last import WideLastChange
from kdcache.train.setup import prepare
from tests.train.support import tiny_run


def test_the_student_takes_the_teachers_width(tiny_cache: Cache) -> None:
    setup = prepare(tiny_run(method=wide_last(teacher=("blocks.1/patch",))), tiny_cache)
    assert setup.spec.change == WideLastChange(width=24)
    assert [str(tap) for tap in setup.step.student.taps] == ["blocks.1/patch"]
    assert [name for name, _ in setup.step.named_parameters() if name.startswith("adapters")] == []
