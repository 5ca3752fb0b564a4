from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.cache import Cache, open_cache
from kdcache.errors import ModelError, UsageError
from kdcache.planning.training import StudentConfig, measure_training, usual_method
from kdcache.teacher.extract import extract
from tests.conftest import STUDENT_KWARGS, tiny_extract

STUDENT = StudentConfig(name="vit_tiny_patch16_224", kwargs=STUDENT_KWARGS, batch_size=8, device="cpu")


@pytest.fixture
def logits_cache(tmp_path: Path) -> Cache:
    """Quick where kernels are interpreted: a step on logits runs none."""
    extract(tiny_extract(tmp_path / "c", taps=("head/logits",)))
    return open_cache(tmp_path / "c")


def test_everything_is_measured(logits_cache: Cache) -> None:
    found = measure_training(logits_cache, STUDENT, source=None, seconds=0.1)
    assert (found.device, found.cached_peak_bytes, found.online_peak_bytes) == ("cpu", None, None)
    assert 4 <= found.batch_size <= 8
    assert min(found.step_s, found.teacher_s, found.cached_read_s, found.online_read_s) > 0


def test_a_deeper_student_takes_longer(logits_cache: Cache) -> None:
    deep = replace(STUDENT, kwargs={**STUDENT_KWARGS, "depth": 24})
    steps = [measure_training(logits_cache, each, source=None, seconds=0.1).step_s for each in (STUDENT, deep)]
    assert steps[1] > 2 * steps[0]


def test_logits_and_the_first_patch_tokens_are_learned(tiny_cache: Cache) -> None:
    method = usual_method(tiny_cache)
    assert [term.name for term in method.terms] == ["logits", "tokens"]
    assert not method.needs_labels


def test_prefix_tokens_alone_teach_nothing(tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "c", taps=("blocks.-1/prefix",), limit=4))
    with pytest.raises(UsageError, match="keep one of them"):
        usual_method(open_cache(tmp_path / "c"))


def test_a_student_that_is_not_there_is_refused(tiny_cache: Cache) -> None:
    with pytest.raises(ModelError, match="no_such_model"):
        measure_training(tiny_cache, replace(STUDENT, name="no_such_model"), source=None, seconds=0.1)


def test_a_batch_is_at_least_one_view() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        StudentConfig(name="x", batch_size=0)
