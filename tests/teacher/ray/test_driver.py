"""A cluster of two actors, in which some are killed with SIGKILL."""

import os
import signal
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from kdcache.cache import Cache, open_cache
from kdcache.cache.job import read_ledger
from kdcache.errors import BadRecordError, InterruptedRunError, RankLostError, UsageError
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.extract import ExtractReport, extract
from kdcache.teacher.ray import RayCluster, extract_on_ray
from kdcache.teacher.ray.cluster import import_ray
from kdcache.teacher.worker import Progress
from tests.conftest import TEACHER, TEACHER_KWARGS, file_hashes, tiny_add, tiny_extract
from tests.teacher.ray.faulty_actor import FaultyActor
from tests.teacher.ray.faulty_reader import FOLDER, FaultyReader

# Ray 2.44 leaves its log open, and its server to the end of the process.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file .*/ray/session_:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]
ROOT = Path(__file__).parents[3]
Fault = Callable[[str, str], None]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """Ray with room for two actors; the folder of their faults."""
    pytest.importorskip("ray", reason="Ray is not installed")
    faults = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(faults))
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
        )
        patch.delenv("RAY_ADDRESS", raising=False)
        ray = import_ray()
        ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, logging_level="ERROR")
        try:
            yield faults
        finally:
            ray.shutdown()


@pytest.fixture
def fault(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Fault]:
    """Switches a fault on until the test ends."""
    monkeypatch.setattr("kdcache.teacher.ray.driver.ShardActor", FaultyActor)
    yield lambda step, how: (cluster / step).write_text(how) and None
    for path in cluster.iterdir():
        path.unlink()


def on_ray(config: ExtractConfig, notes: list[str] | None = None, num_actors: int = 2, **more: Any) -> ExtractReport:
    notes = [] if notes is None else notes
    return extract_on_ray(config, RayCluster(num_actors=num_actors), on_note=notes.append, **more)


@pytest.mark.slow
def test_an_actor_killed_inside_a_shard_changes_no_byte(
    fault: Fault, tiny_cache: Cache, tiny_root: Path, tmp_path: Path
) -> None:
    fault("write-train-000001", "once")
    seen: list[Progress] = []
    notes: list[str] = []
    report = on_ray(tiny_extract(tmp_path / "c"), notes, on_progress=seen.append)
    assert len(notes) == 1
    assert "ended while it wrote shard train-000001" in notes[0]
    assert "attempt 1 of 3" in notes[0]
    assert (report.num_shards, report.num_records, report.num_skipped) == (3, 40, 0)
    assert (seen[-1].num_records, seen[-1].num_pending) == (40, 40)
    assert open_cache(tmp_path / "c").digest == tiny_cache.digest
    assert file_hashes(tmp_path / "c") == file_hashes(tiny_root), "also no unfinished file of the dead one"
    assert not list((tmp_path / "c" / "job" / "attempts").iterdir())


@pytest.mark.slow
def test_images_that_cannot_be_read_and_one_that_kills_are_quarantined(
    fault: Fault, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    files[0].write_bytes(b"no image")
    config = tiny_extract(tmp_path / "c", data=str(photos), limit=None, max_bad=0.9, shard_samples=4, order="source")
    fault("read-1", "always")
    notes: list[str] = []
    on_ray(config, notes)
    deaths = [note for note in notes if note.startswith("a Ray actor ended while it wrote shard train-000000")]
    assert len(deaths) == 2, "at the third attempt it is looked for"
    reasons = [bad.reason for bad in read_ledger(tmp_path / "c" / "ledger" / "train-000000.json")]
    assert "quarantined: killed the process that read it (exit code -9)" in reasons
    assert open_cache(tmp_path / "c").manifest.num_bad == 2

    # One process that was killed twice.
    monkeypatch.setattr("kdcache.teacher.begin.ImageReader", FaultyReader)
    attempts = tmp_path / "local" / "job" / "attempts"
    attempts.mkdir(parents=True)
    (attempts / "train-000000.json").write_text('{"attempts":2}')
    extract(replace(config, out=tmp_path / "local"))
    assert file_hashes(tmp_path / "c") == file_hashes(tmp_path / "local"), "also the ledgers"


@pytest.mark.slow
def test_a_shard_that_always_kills_is_named_and_the_others_are_finished(
    fault: Fault, tiny_cache: Cache, tmp_path: Path
) -> None:
    fault("write-train-000000", "always")
    with pytest.raises(RankLostError, match="1 of 3 pending shards could not be written: 3 Ray actors") as caught:
        on_ray(tiny_extract(tmp_path / "c"))
    assert "train-000000: " in str(caught.value)
    assert sorted(path.stem for path in (tmp_path / "c" / "index").iterdir()) == ["train-000001", "train-000002"]
    report = extract(tiny_extract(tmp_path / "c"))
    assert (report.num_shards, report.num_skipped) == (1, 2)
    assert open_cache(tmp_path / "c").digest == tiny_cache.digest


@pytest.mark.slow
def test_an_image_that_hangs_costs_its_actor_and_not_the_pass(fault: Fault, tiny_cache: Cache, tmp_path: Path) -> None:
    fault("read-9", "once hang")
    notes: list[str] = []
    on_ray(tiny_extract(tmp_path / "c", image_timeout_s=5.0), notes)
    assert len(notes) == 1
    assert "train-000001" in notes[0]
    assert open_cache(tmp_path / "c").digest == tiny_cache.digest


@pytest.mark.slow
def test_a_dead_teacher_is_reported_once_and_at_once(fault: Fault, tmp_path: Path) -> None:
    notes: list[str] = []
    weights = timm.create_model(TEACHER, **TEACHER_KWARGS).state_dict()
    weights["blocks.0.mlp.fc1.bias"][0] = torch.nan
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(BadRecordError, match=r"nan|finite"):
        on_ray(tiny_extract(tmp_path / "c", teacher_weights=str(tmp_path / "weights.pth")), notes)
    fault("teacher", "always")
    began = time.monotonic()
    with pytest.raises(RankLostError, match="a Ray actor ended while it loaded the teacher"):
        on_ray(tiny_extract(tmp_path / "c"), notes)
    assert time.monotonic() - began < 120
    assert notes == []


@pytest.mark.slow
@pytest.mark.parametrize("resumes", ["local", "ray"])
def test_a_signal_stops_it_and_any_engine_resumes(
    cluster: Path, tiny_cache: Cache, tmp_path: Path, resumes: str
) -> None:
    config = tiny_extract(tmp_path / "c", shard_samples=8)

    def interrupt(progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    begins: Callable[..., Any] = on_ray if resumes == "local" else extract
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(InterruptedRunError, match=r"stopped by signal 15 after \d of 3 pending shards"):
            begins(config, on_progress=interrupt, **({"num_actors": 1} if resumes == "local" else {}))
    finally:
        signal.signal(signal.SIGTERM, previous)
    done = len(list((tmp_path / "c" / "index").iterdir()))
    assert 1 <= done < 3
    report = extract(config) if resumes == "local" else on_ray(config)
    assert report.num_skipped == done
    assert open_cache(tmp_path / "c").digest == tiny_cache.digest


@pytest.mark.slow
def test_groups_are_added_several_at_a_time(cluster: Path, cache_copy: Path, groups_root: Path) -> None:
    report = on_ray(tiny_add(cache_copy, pixels="raw"))
    assert sorted(report.groups) == ["pixels", "wide"]
    assert file_hashes(cache_copy) == file_hashes(groups_root)


def test_more_actors_than_there_is_room_for_and_ranks_are_refused(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="the Ray cluster has 2 CPUs, 9 are wanted"):
        on_ray(tiny_extract(tmp_path / "c"), num_actors=9)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(UsageError, match="worker 0 of 2, as srun says; Ray starts its own workers"):
        on_ray(tiny_extract(tmp_path / "c"))
    assert not (tmp_path / "c").exists()
