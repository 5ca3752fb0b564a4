import io
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcache.cache import Cache, open_cache
from kdcache.distributed import WorkerEnv
from kdcache.errors import CacheMismatchError, InterruptedRunError, Remedy, SourceError
from kdcache.teacher.extract import Progress, extract
from tests.cache.support import all_faults, rebuild_all
from tests.cache.test_repair import set_aside
from tests.conftest import GROUP, TEACHER_KWARGS, file_hashes, tiny_extract


def test_it_is_a_pure_function_of_the_plan(tiny_root: Path, tiny_cache: Cache, tmp_path: Path) -> None:
    """Other threads, another folder, another time: the same bytes everywhere, ledgers and indexes included."""
    assert tiny_cache.groups[GROUP].manifest.fingerprint.teacher.cpu_threads == 1
    extract(tiny_extract(tmp_path / "c", threads=1))
    assert file_hashes(tmp_path / "c") == file_hashes(tiny_root)
    torch.set_num_threads(1)
    extract(tiny_extract(tmp_path / "d"))
    assert file_hashes(tmp_path / "d") == file_hashes(tiny_root)


def test_progress_counts_up_and_names_the_bottleneck(tmp_path: Path) -> None:
    seen: list[Progress] = []
    report = extract(tiny_extract(tmp_path / "c"), on_progress=seen.append)
    assert seen[-1].num_records == seen[-1].num_pending == report.num_records == 40
    assert [each.num_records for each in seen] == sorted(each.num_records for each in seen)
    assert {each.bottleneck for each in seen} <= {"read", "compute", "write"}
    entry = json.loads((tmp_path / "c" / "job" / "runs.jsonl").read_text())
    assert entry["records"] == 40


def test_running_again_does_nothing(tiny_root: Path, tiny_cache: Cache) -> None:
    def times() -> dict[Path, int]:
        files = (path for path in tiny_root.rglob("*.*") if path.is_file() and "job" not in path.parts)
        return {path: path.stat().st_mtime_ns for path in files}

    before, hashes = times(), file_hashes(tiny_root)
    report = extract(tiny_extract(tiny_root))
    assert (report.num_shards, report.num_skipped, report.num_records) == (0, 3, 0)
    assert (times(), file_hashes(tiny_root)) == (before, hashes)
    assert open_cache(tiny_root).digest == tiny_cache.digest


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seed": 1}, "views.seed: the cache has 0, this run wants 1"),
        ({"teacher_kwargs": {**TEACHER_KWARGS, "img_size": 64}}, "views.size: the cache has 16, this run wants 64"),
        ({"teacher_kwargs": {**TEACHER_KWARGS, "depth": 3}}, "teacher.kwargs.depth: the cache has 2, this run wants 3"),
        ({"limit": 19}, "source.num_samples: the cache has 20, this run wants 19"),
        ({"views": 3}, "views.num_views: the cache has 2, this run wants 3"),
        ({"batch_size": 5}, "batch_size: the cache has 6, this run wants 5"),
    ],
)
def test_another_plan_is_refused_with_both_values(tiny_root: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(CacheMismatchError, match=field):
        extract(tiny_extract(tiny_root, **changes))


def test_other_weights_are_another_teacher(tiny_root: Path, tmp_path: Path) -> None:
    import timm

    from tests.conftest import TEACHER

    torch.save(timm.create_model(TEACHER, **TEACHER_KWARGS).state_dict(), tmp_path / "w.pth")
    with pytest.raises(CacheMismatchError, match=r"teacher.weights_sha256: the cache has .* this run wants"):
        extract(tiny_extract(tiny_root, teacher_weights=str(tmp_path / "w.pth")))


def test_two_workers_write_the_same_shards_as_one(tiny_cache: Cache, tmp_path: Path) -> None:
    """Each takes every second shard; whoever finishes last writes the manifest."""
    reports = [extract(tiny_extract(tmp_path / "c"), env=WorkerEnv(rank, 2, rank, "job")) for rank in range(2)]
    assert [report.num_shards for report in reports] == [2, 1]
    assert reports[0].base is None
    assert list(reports[1].groups) == [GROUP]
    assert reports[1].base is not None
    assert open_cache(tmp_path / "c").digest == tiny_cache.digest


def test_a_signal_finishes_the_shard_and_leaves(tiny_cache: Cache, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.num_records >= 6:
            os.kill(os.getpid(), signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(InterruptedRunError, match=r"stopped by signal 15 after \d of 3 pending shards") as caught:
            extract(tiny_extract(tmp_path / "c", shard_samples=8), on_progress=interrupt)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert caught.value.signal_number == 15
    done = len(list((tmp_path / "c" / "index").iterdir()))
    assert 1 <= done < 3
    report = extract(tiny_extract(tmp_path / "c"))
    assert report.num_skipped == done
    assert open_cache(tmp_path / "c").digest == tiny_cache.digest


def test_keys_join_labels_and_columns(tiny_cache: Cache) -> None:
    from kdcache.images import open_source

    labels = {image.key: image.label for image in open_source("digits:train").images}
    for shard in tiny_cache.manifest.shards:
        index = tiny_cache.index(shard)
        for row in range(len(index)):
            sample = index.sample(row)
            assert labels[sample.source_key] == sample.label
            assert sample.key == sample.source_key


def test_the_cache_holds_the_outputs_of_the_teacher(tiny_cache: Cache) -> None:
    """Against a fresh model, by hand and for every record."""
    import timm

    from kdcache.models import weights_sha256
    from kdcache.seeds import derived_seed
    from kdcache.stream.dataset import CacheDataset
    from tests.conftest import TEACHER

    torch.manual_seed(derived_seed("teacher", 0))
    model = timm.create_model(TEACHER, **TEACHER_KWARGS).eval()
    assert weights_sha256(model) == tiny_cache.groups[GROUP].manifest.fingerprint.teacher.weights_sha256
    column = tiny_cache.find_column(kind="patch", codec="fp16")
    for record in range(0, 40, 7):
        item = CacheDataset(tiny_cache, [column])[record]
        images = (item["pixels"].float() / 255 - 0.5).permute(2, 0, 1)[None] / 0.5
        with torch.inference_mode():
            fresh = model.forward_intermediates(images, indices=[1], output_fmt="NLC", intermediates_only=True)[0][0]
        np.testing.assert_array_equal(item[column.name].numpy(), fresh.half().float().numpy())


def test_statistics_can_be_left_light(tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "c", statistics="light"))
    cache = open_cache(tmp_path / "c")
    for column in cache.group_index(cache.groups[GROUP], cache.manifest.shards[0]).columns.values():
        assert column.statistics.raw_moment.size == 0
        assert column.singular_energies.size == 0
        assert column.column_sums.size > 0


def test_images_can_be_referred_to(tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "c", images="reference", taps=("head/logits",)))
    cache = open_cache(tmp_path / "c")
    assert not cache.index(cache.manifest.shards[0]).image_sizes.any()


def test_a_source_that_is_not_there_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        extract(tiny_extract(tmp_path / "c", data="no/such/folder"))
    assert not (tmp_path / "c").exists()


def test_labels_that_change_between_a_kill_and_its_rerun_are_noticed(photos: Path, tmp_path: Path) -> None:
    """The same images under the same names, and as many classes: two labels of the tar were wrong."""
    images = sorted(photos.rglob("*.*"))

    def label(labels: Sequence[int]) -> None:
        with tarfile.open(tmp_path / "data.tar", "w") as tar:
            for image, number in zip(images, labels, strict=True):
                tar.add(image, image.name)
                member = tarfile.TarInfo(f"{image.stem}.cls")
                member.size = 1
                tar.addfile(member, io.BytesIO(b"%d" % number))

    label([0, 1, 2, 0, 1, 2])
    config = tiny_extract(tmp_path / "c", data=str(tmp_path / "data.tar"), limit=None, shard_samples=3)
    extract(config)
    for path in (tmp_path / "c").rglob("manifest.*"):
        path.unlink()
    (tmp_path / "c" / "index" / "train-000001.h5").unlink()
    before = file_hashes(tmp_path / "c")
    label([1, 0, 2, 0, 1, 2])
    for lost in (None, "job", f"{GROUP}/job"):
        if lost is not None:  # an unfinished cache that was copied
            shutil.rmtree(tmp_path / "c" / lost)
        with pytest.raises(CacheMismatchError, match=r"source\.labels_sha256: the cache has"):
            extract(config)
        assert file_hashes(tmp_path / "c") == before
    label([0, 1, 2, 0, 1, 2])
    assert extract(config).base is not None


def test_other_versions_finish_a_cache_only_where_that_is_accepted(
    cache_copy: Path, tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last shard is pending again, and timm and the JPEG decoder were updated meanwhile."""
    own = open_cache(tiny_root)
    for folder in (cache_copy, cache_copy / GROUP):
        (folder / "index" / "train-000002.h5").unlink()
        for path in folder.glob("manifest.*"):
            path.unlink()
    monkeypatch.setattr("timm.__version__", "99.1")
    monkeypatch.setattr("kdcache.teacher.plan.decoder_versions", lambda: {"pillow": "99.2"})
    with pytest.raises(CacheMismatchError, match=r"versions.pillow: the cache has '.*', this run wants '99.2'") as no:
        extract(tiny_extract(cache_copy))
    assert no.value.remedy is Remedy.ACCEPT_VERSIONS
    with pytest.raises(CacheMismatchError, match="seed") as no:
        extract(tiny_extract(cache_copy, seed=1, accept_versions=True))
    assert no.value.remedy is Remedy.SAME_PLAN

    report = extract(tiny_extract(cache_copy, accept_versions=True))
    assert (report.num_shards, report.num_skipped) == (1, 2)
    found = open_cache(cache_copy)
    assert found.manifest.fingerprint == own.manifest.fingerprint
    assert [each["pillow"] for each in found.manifest.later_versions] == ["99.2"]
    assert [each["timm"] for each in found.groups[GROUP].manifest.later_versions] == ["99.1"]
    assert all_faults(cache_copy) == []
    before = file_hashes(cache_copy)
    assert extract(tiny_extract(cache_copy, accept_versions=True)).num_shards == 0
    assert file_hashes(cache_copy) == before, "nothing was written by the others this time"
    for folder in (cache_copy, cache_copy / GROUP):  # copied without what only a running extraction needs
        shutil.rmtree(folder / "job")
    rebuild_all(cache_copy)
    assert file_hashes(cache_copy) == before
    for folder in (cache_copy, cache_copy / GROUP):
        shutil.rmtree(folder / "job")
    for group in (GROUP, ""):
        set_aside(cache_copy, group, ["train-000000"])
    assert extract(tiny_extract(cache_copy, accept_versions=True)).num_shards == 1
    assert file_hashes(cache_copy) == before
    assert {name: each for name, each in before.items() if name.endswith((".tar", ".h5"))} == {
        name: each for name, each in file_hashes(tiny_root).items() if name.endswith((".tar", ".h5"))
    }
