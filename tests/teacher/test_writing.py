import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.cache import open_cache
from kdcache.cache.extraction import Extraction
from kdcache.cache.group_writer import GroupShardWriter
from kdcache.distributed.env import worker_env
from kdcache.errors import BadRecordError, DiskFullError, IncompleteCacheError, Remedy, TooManyBadImagesError
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.extract import extract
from kdcache.teacher.model import Teacher
from tests.cache.support import all_faults
from tests.conftest import file_hashes, tiny_add, tiny_extract
from tests.images.support import image_bytes, write_tar


def test_a_codec_worse_than_asked_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = tiny_extract(tmp_path / "c", taps=("blocks.1/patch:int8",), max_error=1e-4)
    message = (
        r"column vit-tiny-patch16-224/blocks-1-patch-int8: error 0\.\d+ of the spread around the channels' means "
        r"\(.* of the values themselves; the median channel loses 0\.\d+ of its own, 0% of the channels more than a "
        r"tenth\), more than max_error, 0.0001"
    )
    with pytest.raises(BadRecordError, match=message) as caught:
        extract(config)
    assert caught.value.remedy is Remedy.FINER_CODEC
    assert not list((tmp_path / "c" / "samples").iterdir())
    extract(replace(config, max_error=0.1))


@pytest.mark.parametrize("every", [1, 10], ids=["all tokens", "a tenth of the tokens"])
def test_tokens_that_a_codec_ruins_are_refused_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """One channel a hundred times the others: int8c keeps them, and whoever wants int8 all the same says so."""
    original = Teacher.outputs

    def massive(self: Teacher, *arguments: Any, **keywords: Any) -> Any:
        outputs = original(self, *arguments, **keywords)
        return {
            tap: values
            + 300 * (torch.arange(values.shape[-1]) == 5) * (torch.arange(values.shape[1]) % every == 0)[:, None]
            for tap, values in outputs.items()
        }

    monkeypatch.setattr(Teacher, "outputs", massive)
    config = tiny_extract(tmp_path / "c", taps=("blocks.1/patch:int8",), limit=8)
    with pytest.raises(BadRecordError, match=r"\d+% of the channels more than a tenth\), more than max_error, 0\.1"):
        extract(config)
    kept = extract(replace(config, taps=("blocks.1/patch:int8c",), out=tmp_path / "finer", max_error=0.02))
    [summary] = kept.groups["vit-tiny-patch16-224"].columns.values()
    assert summary.fidelity["worst_channel_error"] < 0.1, "the channel itself, and the others lose less than"
    assert summary.fidelity["median_channel_error"] < 0.02
    extract(replace(config, max_error=2.0))


def one_shard(out: Path) -> ExtractConfig:
    """A pass of three batches."""
    return tiny_extract(out, limit=8, taps=("head/logits",))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("undisturbed")
    extract(one_shard(root))
    return file_hashes(root)


@pytest.mark.parametrize(
    ("batch", "kind"), [(0, BadRecordError), (1, DiskFullError), (2, MemoryError), (2, BadRecordError)]
)
def test_a_shard_with_a_refused_batch_is_never_committed(
    undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], batch: int
) -> None:
    """However often it is tried; once the cause is gone, the same run makes what an undisturbed one makes."""
    original, calls = GroupShardWriter.add_records, []

    def refused(self: GroupShardWriter, *arguments: Any) -> None:
        calls.append(self)
        if len(calls) == 1 + batch:
            raise kind("refused")
        original(self, *arguments)

    for _ in range(2):
        calls.clear()
        with monkeypatch.context() as patched:
            patched.setattr(GroupShardWriter, "add_records", refused)
            with pytest.raises(kind, match="refused"):
                extract(one_shard(tmp_path / "c"))
        assert not list((tmp_path / "c").rglob("*.h5"))
        assert not list((tmp_path / "c").rglob("*.tar"))
    extract(one_shard(tmp_path / "c"))
    assert file_hashes(tmp_path / "c") == undisturbed


def test_the_codec_that_a_refusal_advises_can_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values beyond fp16's 65,504: nothing was committed, so that another codec is not another plan's."""
    original = Teacher.outputs

    def large(self: Teacher, *arguments: Any, **keywords: Any) -> Any:
        return {tap: values * 1e7 for tap, values in original(self, *arguments, **keywords).items()}

    monkeypatch.setattr(Teacher, "outputs", large)
    config = tiny_extract(tmp_path / "c", taps=("blocks.1/patch",))
    for _ in range(2):
        with pytest.raises(BadRecordError, match=r"codec fp16 makes of the teacher's value -?inf") as caught:
            extract(config)
        assert caught.value.remedy is Remedy.WIDER_CODEC
    extract(replace(config, codec="bf16"))
    assert [column.facts.codec for column in open_cache(tmp_path / "c").columns] == ["bf16"]
    assert all_faults(tmp_path / "c") == []  # also no folder of the codec that was refused


def test_a_dead_teacher_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights zero: every token is the same, and somebody would train on it for a month."""
    original = Teacher.outputs

    def dead(self: Teacher, *arguments: object, **keywords: object) -> object:
        outputs = original(self, *arguments, **keywords)
        return {tap: values if tap == "head/logits" else values * 0 for tap, values in outputs.items()}

    monkeypatch.setattr(Teacher, "outputs", dead)
    for _ in range(2):
        with pytest.raises(BadRecordError, match="outputs are exactly the same for every token"):
            extract(tiny_extract(tmp_path / "c"))
        assert not list((tmp_path / "c").rglob("*.h5"))


@pytest.mark.parametrize("shard_samples", [1, 8])
def test_a_dead_teacher_never_makes_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_samples: int
) -> None:
    """Its bias is all it gives. With one record a shard only the whole shows it."""
    original = Teacher.outputs

    def dead(self: Teacher, *arguments: Any, **keywords: Any) -> Any:
        outputs = original(self, *arguments, **keywords)
        return {tap: values * 0 + 0.3 for tap, values in outputs.items()}

    monkeypatch.setattr(Teacher, "outputs", dead)
    config = tiny_extract(tmp_path / "c", limit=3, views=1, shard_samples=shard_samples, taps=("blocks.1/prefix",))
    for _ in range(2):
        with pytest.raises(BadRecordError, match="outputs are exactly the same for every token"):
            extract(config)
        assert not list((tmp_path / "c").rglob("manifest.*"))


@pytest.mark.parametrize("names", [("a", "b", "c", "d", "d2"), ("a", "a2", "a3")], ids=["in one shard", "in all"])
def test_images_that_are_alike_may_have_the_same_outputs(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Two copies of a photo in the last shard are no sign of a dead teacher."""
    members = {f"{number}.jpg": image_bytes(ord(name[0])) for number, name in enumerate(names)}
    data = str(write_tar(tmp_path / "t.tar", members))
    config = tiny_extract(tmp_path / "c", data=data, taps=("head/logits",), view_recipe="eval", views=1, limit=None)
    report = extract(replace(config, order="source", shard_samples=3))
    assert report.base is not None
    assert report.base.num_samples == len(names)


def test_a_stricter_limit_on_the_codec_is_checked_in_finished_shards_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_extract(tmp_path / "c", taps=("blocks.1/patch:int8",), max_error=0.1)
    with monkeypatch.context() as patched:
        patched.setattr(Extraction, "finish", lambda *_: None)
        extract(config)
    for _ in range(2):
        with pytest.raises(BadRecordError, match=r"more than max_error, 0\.0001"):
            extract(replace(config, max_error=1e-4))
        assert not list((tmp_path / "c").rglob("manifest.*"))
    assert extract(config).base is not None


def test_too_many_bad_images_are_a_state_of_the_cache(photos: Path, tmp_path: Path) -> None:
    """However often the run is repeated, and whichever worker meets them."""
    for image in ("cat/1.JPEG", "dog/2.png"):
        (photos / image).write_bytes(b"")
    config = tiny_extract(tmp_path / "c", data=str(photos), limit=None, shard_samples=1, max_bad=0.2)
    workers = [replace(worker_env({}), rank=rank, world_size=2) for rank in (0, 1)]
    texts: set[str] = set()
    for attempt in range(4):
        with contextlib.suppress(TooManyBadImagesError):
            extract(config, env=workers[attempt % 2])
        with pytest.raises(TooManyBadImagesError) as caught:
            extract(config)
        texts.add(str(caught.value))
        assert not list((tmp_path / "c").rglob("manifest.*"))
    assert len(texts) == 1
    with pytest.raises(IncompleteCacheError):
        open_cache(tmp_path / "c")
    report = extract(replace(config, max_bad=0.5))
    assert report.base is not None
    assert report.base.num_bad == 2


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
