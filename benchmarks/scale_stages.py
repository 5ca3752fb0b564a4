"""The stages that `scale` measures, each in a process of its own: ``python -m benchmarks.scale_stages STAGE CACHE``."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kdcache.cache.cache import Cache, open_cache
from kdcache.stream.epoch_order import EpochOrder
from kdcache.stream.order import StreamOrder, StreamState

BATCH_SIZE = 8192
WORLD_SIZE = 512
PLANNED_IMAGES = 500_000
_BATCHES = 200
_OPENINGS = 20


def stage_import(folder: Path) -> dict[str, list[float]]:
    """Nothing: the memory that the imports take."""
    return {}


def stage_open(folder: Path) -> dict[str, list[float]]:
    """`open_cache`: manifests read, hashed, parsed and checked against each other."""
    return {"open_s": [_seconds(lambda: open_cache(folder)) for _ in range(_OPENINGS)]}


def stage_order(folder: Path) -> dict[str, list[float]]:
    """An epoch's order begun, its batches for the last rank, and resuming three quarters into an epoch."""
    cache = open_cache(folder)
    plan = _plan(cache)
    begun: list[float] = []
    batches: list[float] = []
    resumed: list[float] = []
    for epoch in range(_OPENINGS):
        begun.append(_seconds(lambda epoch=epoch: _batch(plan, epoch, 0)))
        state = StreamState(cache.digest, plan.seed, epoch, _deep(plan) * plan.batch_size, plan.description)
        resumed.append(_seconds(lambda state=state: _batch(plan, state.epoch, state.step(cache.digest, plan))))
    order = plan.epoch(0)
    for step in range(_deep(plan), min(_deep(plan) + _BATCHES, plan.steps_per_epoch)):
        batches.append(_seconds(lambda step=step: _rows(plan, order, 0, step, WORLD_SIZE - 1)))
    return {"begin_s": begun, "resume_s": resumed, "batch_s": batches}


def stage_epoch(folder: Path) -> dict[str, list[float]]:
    """All batches of one rank in one epoch, planned one after another."""
    plan = _plan(open_cache(folder))

    def whole() -> None:
        order = plan.epoch(0)
        for step in range(plan.steps_per_epoch):
            _rows(plan, order, 0, step, 0)

    return {"epoch_s": [_seconds(whole)]}


def stage_sharding(folder: Path) -> dict[str, list[float]]:
    """One global batch, cut for every rank: together they are the batch of a single process."""
    plan = _plan(open_cache(folder))
    order, step = plan.epoch(1), _deep(plan)
    parts: list[np.ndarray] = []
    seconds = [
        _seconds(lambda rank=rank: parts.append(_rows(plan, order, 1, step, rank))) for rank in range(WORLD_SIZE)
    ]
    if not np.array_equal(np.concatenate(parts), plan.batch(plan.epoch(1), epoch=1, step=step)):
        raise SystemExit("the parts of the ranks are not the global batch")
    return {"rank_s": seconds}


def stage_loader(folder: Path) -> dict[str, list[float]]:
    """A CacheLoader of the last rank made ready, torch and the buffers of its batches included."""
    from kdcache.stream.config import StreamConfig
    from kdcache.stream.loader import CacheLoader

    cache = open_cache(folder)
    config = StreamConfig(batch_size=_plan(cache).batch_size, images="none")

    def make() -> CacheLoader:
        return CacheLoader(cache, cache.columns, config, rank=WORLD_SIZE - 1, world_size=WORLD_SIZE)

    return {"loader_s": [_seconds(make) for _ in range(_OPENINGS)]}


def stage_pass_imports(folder: Path) -> dict[str, list[float]]:
    """What planning a teacher pass imports, torch and timm included, and a source of one image."""
    return {"plan_s": [_planned(1)]}


def stage_pass(folder: Path) -> dict[str, list[float]]:
    """The images of a teacher pass put in order and given their keys: every process does that for all of them."""
    return {"plan_s": [_planned(PLANNED_IMAGES)]}


STAGES: dict[str, Callable[[Path], dict[str, list[float]]]] = {
    "import": stage_import,
    "open": stage_open,
    "order": stage_order,
    "epoch": stage_epoch,
    "sharding": stage_sharding,
    "loader": stage_loader,
    "pass_imports": stage_pass_imports,
    "pass": stage_pass,
}


def _planned(num_images: int) -> float:
    from kdcache.images.source import Source, SourceImage
    from kdcache.teacher.config import ExtractConfig
    from kdcache.teacher.source_plan import plan_source

    class MadeUp(Source):
        """Images with names as long as ImageNet's."""

        kind = "folder"
        class_names: list[str] = []
        images = [
            SourceImage(f"n{each % 1000:08d}/n{each:08d}_{each}.JPEG", f"n{each:08d}-{each}", "jpg", each % 1000)
            for each in range(num_images)
        ]

        def read(self, position: int) -> bytes:
            raise NotImplementedError

        def size_bytes(self, position: int) -> int:
            raise NotImplementedError

    config = ExtractConfig(out=Path("none"), data="none", teacher="none")
    return _seconds(lambda: plan_source(MadeUp(), config))


def _plan(cache: Cache) -> StreamOrder:
    sizes = tuple(shard.num_samples for shard in cache.manifest.shards)
    return StreamOrder(shard_sizes=sizes, num_views=cache.num_views, batch_size=min(BATCH_SIZE, sum(sizes)), seed=0)


def _deep(plan: StreamOrder) -> int:
    return plan.steps_per_epoch * 3 // 4


def _batch(plan: StreamOrder, epoch: int, step: int) -> np.ndarray:
    return _rows(plan, plan.epoch(epoch), epoch, step, WORLD_SIZE - 1)


def _rows(plan: StreamOrder, order: EpochOrder, epoch: int, step: int, rank: int) -> np.ndarray:
    return plan.batch(order, epoch=epoch, step=step, rank=rank, world_size=WORLD_SIZE)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Print the seconds of one stage and the most memory this process ever had, as JSON."""
    seconds = STAGES[sys.argv[1]](Path(sys.argv[2]))
    status = Path("/proc/self/status").read_text().splitlines()
    peak_kib = int(next(line.split()[1] for line in status if line.startswith("VmHWM:")))
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_kib * 1024}))


if __name__ == "__main__":
    main()
