"""What a pass will take, before the teacher's weights are loaded: from an empty model of the same shape, run here."""

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm.data
import torch
from torch import nn

from kdcache.cache.facts import ColumnFacts, pixel_column
from kdcache.cache.paths import CachePaths
from kdcache.cache.places import writing_paths
from kdcache.distributed.env import WorkerEnv
from kdcache.distributed.process_group import choose_device
from kdcache.models import Tap, TapReader, create_timm_model
from kdcache.models.build import size_arguments
from kdcache.models.names import with_square_size
from kdcache.models.taps import has_classifier, token_grid
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.model import TapFacts
from kdcache.teacher.plan import plan_columns
from kdcache.teacher.source_plan import SourcePlan
from kdcache.teacher.space import images_bytes, records_bytes

# A forward of a whole batch is measured if it takes no longer than this, else one of fewer images.
_MEASURE_S = 2.0
_REPEATS = 3
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class PassEstimate:
    """What is still to be done, and whether there is room.

    Args:
        num_images: Images of shards that are not finished.
        num_views: Views of all these.
        size_bytes: Bytes that will be written; None where they cannot be told.
        free_bytes: Free where the cache lies.
        teacher_s: Seconds of this worker in the teacher, from forwards measured here with empty weights: within a
            factor of five; None where they cannot be told. Reading images may take longer.
        unknown: Why something cannot be told; empty where all can.
    """

    num_images: int
    num_views: int
    size_bytes: int | None
    free_bytes: int
    teacher_s: float | None
    unknown: str = ""


def estimate_pass(config: ExtractConfig, plan: SourcePlan, env: WorkerEnv) -> PassEstimate:
    """Estimate bytes and time of a pass that writes a base and its first group.

    Args:
        config: What is asked.
        plan: The images.
        env: This worker: of several each has its part of the time.
    """
    paths = writing_paths(config.out)
    numbers = _pending(config, plan, paths)
    num_views = len(numbers) * config.views
    free = shutil.disk_usage(_existing(paths.root)).free
    try:
        model = _EmptyTeacher(config, choose_device(config.device, env))
        columns = plan_columns(config, model)  # pyright: ignore[reportArgumentType]
        seconds = model.seconds_per_view(config.batch_size) * num_views / env.world_size if numbers else 0.0
    except Exception as error:
        # An estimate stops no pass: whatever is wrong is refused in its own words when the teacher is built.
        return PassEstimate(len(numbers), num_views, None, free, None, str(error).split("\n", 1)[0])
    if config.pixels != "replay":
        columns.append(pixel_column(model.image_size, jpeg_quality=config.jpeg_quality))
    size = _written_bytes(config, plan, columns, numbers)
    return PassEstimate(len(numbers), num_views, size, free, seconds)


class _EmptyTeacher:
    """A teacher's model with zeros for weights: its shapes and its speed are the same.

    Args:
        config: Which teacher.
        device: Where it runs.

    Raises: ModelError, RuntimeError for a model that cannot be built without memory.
    """

    def __init__(self, config: ExtractConfig, device: torch.device) -> None:
        assert config.teacher is not None, "the config checks it"
        given = with_square_size(config.teacher_kwargs, where=config.teacher)
        size = given.get("img_size", config.image_size)
        arguments = {**(size_arguments(config.teacher, size) if size else {}), **given}
        with torch.device("meta"):
            model: nn.Module = create_timm_model(config.teacher, kwargs=arguments, settings=config.teacher_settings)
        self.image_size = int(size or timm.data.resolve_model_data_config(model)["input_size"][-1])
        self._model = model.to_empty(device=device).eval().requires_grad_(False)
        for tensor in (*self._model.parameters(), *self._model.buffers()):
            tensor.zero_()
        self._device, self._config = device, config
        self._reader: TapReader | None = None

    @property
    def has_classifier(self) -> bool:
        """As Teacher's."""
        return has_classifier(self._model)

    def set_taps(self, taps: Sequence[Tap]) -> list[TapFacts]:
        """As Teacher's."""
        self._reader = TapReader(self._model, taps)
        shapes = self._forward(1)
        return [
            TapFacts(
                tap,
                shapes[str(tap)],
                () if tap.block is None or tap.kind != "patch" else token_grid(self._model, tap.block, self.image_size),
            )
            for tap in self._reader.taps
        ]

    def seconds_per_view(self, batch_size: int) -> float:
        """The best of some forwards, of a whole batch if that is quick."""
        one = self._timed(1)
        count = max(1, min(batch_size, int(_MEASURE_S / max(one, 1e-6))))
        return min(self._timed(count) for _ in range(_REPEATS if count > 1 else 1)) / count

    def _timed(self, count: int) -> float:
        self._synchronize()
        began = time.perf_counter()
        self._forward(count)
        self._synchronize()
        return time.perf_counter() - began

    def _forward(self, count: int) -> dict[str, tuple[int, ...]]:
        assert self._reader is not None, "set_taps() first"
        if self._device.type == "cpu":
            torch.set_num_threads(self._config.cpu_threads or len(os.sched_getaffinity(0)))
        with torch.inference_mode(), self._autocast():
            images = torch.zeros(count, 3, self.image_size, self.image_size, device=self._device)
            outputs = self._reader(self._model, images)
            return {str(tap): tuple(values.float().cpu().shape[1:]) for tap, values in outputs.items()}

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        precision = self._config.precision
        if precision == "auto":
            precision = "fp32" if self._device.type == "cpu" else "bf16"
        return (
            contextlib.nullcontext()
            if precision == "fp32"
            else torch.autocast(self._device.type, dtype=_AUTOCAST[precision])
        )

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _pending(config: ExtractConfig, plan: SourcePlan, paths: CachePaths) -> list[int]:
    """Numbers of the images whose shard this group does not have yet."""
    done = paths.group(config.group_name).finished()
    return [
        number
        for number in range(len(plan.positions))
        if f"{config.split}-{number // config.shard_samples:06d}" not in done
    ]


def _written_bytes(
    config: ExtractConfig, plan: SourcePlan, columns: Sequence[ColumnFacts], numbers: Sequence[int]
) -> int:
    num_shards = -(-len(numbers) // config.shard_samples)
    size = records_bytes(columns, len(numbers) * config.views, num_shards, config.statistics)
    embedded = config.images == "embed"
    return size + images_bytes(plan, numbers, num_shards, num_views=config.views, is_embedded=embedded)


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    for each in (path, *path.absolute().parents):
        if each.is_dir():
            return each
    return Path("/")
