from pathlib import Path

import pytest

from kdcache.errors import ModelError
from kdcache.planning.rehearsal import rehearse
from tests.conftest import tiny_extract


def test_passes_grow_until_one_has_two_batches(tmp_path: Path) -> None:
    """Two batches of six views are six images; a time that is over at once asks for no more than two sizes."""
    notes: list[str] = []
    done = rehearse(tiny_extract(tmp_path), tmp_path, most_images=1000, seconds=0.01, on_note=notes.append)
    assert [each.num_images for each in done] == [4, 8]
    assert notes == ["teacher pass over 4 images", "teacher pass over 8 images"]
    assert done[-1].seconds_per_view == pytest.approx(done[-1].report.seconds / 16)
    assert len(done[-1].cache.manifest.shards) == 1


def test_a_small_pass_is_followed_by_one_of_whole_batches(tmp_path: Path) -> None:
    config = tiny_extract(tmp_path, batch_size=50, taps=("head/logits",))
    done = rehearse(config, tmp_path, most_images=1000, seconds=10, on_note=lambda _: None)
    assert done[-1].report.num_records >= 100


def test_never_more_images_than_there_are(tmp_path: Path) -> None:
    done = rehearse(tiny_extract(tmp_path), tmp_path, most_images=9, seconds=1e9, on_note=lambda _: None)
    assert [each.num_images for each in done] == [4, 9]


def test_weights_of_the_planned_pass_are_not_read(tmp_path: Path) -> None:
    config = tiny_extract(tmp_path, teacher_weights=str(tmp_path / "no such file"), max_error=1e-12, limit=4)
    (done,) = rehearse(config, tmp_path, most_images=4, seconds=1, on_note=lambda _: None)
    teacher = next(iter(done.cache.groups.values())).manifest.fingerprint.teacher
    assert teacher is not None
    assert teacher.weights == "random"


def test_what_the_pass_refuses_is_refused_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no_such_model"):
        rehearse(
            tiny_extract(tmp_path, teacher="no_such_model"), tmp_path, most_images=4, seconds=1, on_note=lambda _: None
        )
