from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.cache import open_cache
from kdcache.errors import BadRecordError, Remedy, TooManyBadImagesError
from kdcache.teacher import extract as extract_module
from kdcache.teacher.extract import extract
from kdcache.teacher.model import Teacher
from tests.conftest import tiny_add, tiny_extract


def test_a_codec_worse_than_asked_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = tiny_extract(tmp_path / "c", taps=("blocks.1/patch:int8",), max_error=1e-4)
    message = r"column vit-tiny-patch16-224/blocks-1-patch-int8: relative error .* more than max_error, 0.0001"
    with pytest.raises(BadRecordError, match=message) as caught:
        extract(config)
    assert caught.value.remedy is Remedy.FINER_CODEC
    assert not list((tmp_path / "c" / "samples").iterdir())
    extract(replace(config, max_error=0.1))


def test_a_dead_teacher_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights zero: every token is the same, and somebody would train on it for a month."""
    original = Teacher.run

    def dead(self: Teacher, *arguments: object, **keywords: object) -> object:
        outputs = original(self, *arguments, **keywords)  # type: ignore[arg-type]
        return {tap: values if tap == "head/logits" else values * 0 for tap, values in outputs.items()}

    monkeypatch.setattr(extract_module.Teacher, "run", dead)
    with pytest.raises(BadRecordError, match="outputs are exactly the same for every token"):
        extract(tiny_extract(tmp_path / "c"))


def test_too_many_bad_images_fail_the_run_and_lose_nothing(photos: Path, tmp_path: Path) -> None:
    for name in ("cat/1.JPEG", "dog/2.png"):
        (photos / name).write_bytes(b"")
    config = tiny_extract(tmp_path / "c", data=str(photos), limit=None, shard_samples=3)
    with pytest.raises(TooManyBadImagesError, match=r"1 of 6 images cannot be used, more than the fraction of 0.01"):
        extract(config)
    report = extract(replace(config, max_bad=0.5))
    assert report.num_skipped >= 1
    assert report.base is not None
    assert (report.base.num_samples, report.base.num_bad) == (4, 2)
    open_cache(tmp_path / "c")


def test_bad_images_of_finished_shards_still_count(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "1.JPEG").write_bytes(b"")
    config = tiny_extract(tmp_path / "c", data=str(photos), limit=None, shard_samples=3, max_bad=0.5)
    extract(config)
    with pytest.raises(TooManyBadImagesError):
        extract(replace(config, max_bad=0.1))


def test_bad_images_of_the_base_stop_no_group_that_is_added(photos: Path, tmp_path: Path) -> None:
    """They were accepted when the base was made, and are not in it."""
    (photos / "cat" / "1.JPEG").write_bytes(b"")
    extract(tiny_extract(tmp_path / "c", data=str(photos), limit=None, max_bad=0.5))
    report = extract(tiny_add(tmp_path / "c"))
    assert report.base is not None
    assert (report.num_records, report.base.num_bad) == (10, 1)
