"""Before a night is spent: whether a cache of these images, teacher and columns pays on this machine."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdcache.errors import UsageError
from kdcache.images import Source, open_source
from kdcache.models import create_timm_model
from kdcache.planning.disk import DiskRates, disk_rates
from kdcache.planning.pictures import IMAGE_BYTES, write_pictures
from kdcache.planning.pixel_forms import PixelForm, measure_pixel_forms
from kdcache.planning.rehearsal import Rehearsal, rehearse
from kdcache.planning.sizes import PlannedBytes, plan_bytes
from kdcache.planning.training import StudentConfig, TrainingCosts, measure_training
from kdcache.planning.verdict import Figures, Verdict, decide
from kdcache.stream.config import usable_memory
from kdcache.teacher.config import AUTO, ExtractConfig
from kdcache.teacher.source_plan import plan_source

_NUM_PICTURES = 128
# Of the memory that this process may use: a cache below it is read from the disk in its first epoch only.
_MEMORY_FRACTION = 0.5


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What is planned.

    Args:
        extract: The pass. Its folder and weights are not used, and its data only with `has_data`.
        has_data: Whether `extract.data` names images; else pictures are made of the size of photographs.
        num_images: Images of the cache; None for those of the data.
        image_bytes: Mean size of an image file, where there is no data.
        student: Who learns.
        disk: Folder on the disk that the cache would lie on.
        epochs: Planned, over all students together; None for not known.
        seconds: About how long each measurement shall take.
    """

    extract: ExtractConfig
    has_data: bool
    student: StudentConfig
    disk: Path
    num_images: int | None = None
    image_bytes: int = IMAGE_BYTES
    epochs: int | None = None
    seconds: float = 6.0

    def __post_init__(self) -> None:
        if not self.has_data and self.num_images is None:
            raise ValueError("a plan needs data, or the number of images")
        if any(each.endswith(f":{AUTO}") for each in (f":{self.extract.codec}", *(self.extract.taps or ()))):
            raise ValueError(
                f"codec {AUTO} is chosen by what a trained teacher gives, and a plan runs random weights; name the "
                "codec to plan with, for example int8"
            )
        for name in ("num_images", "image_bytes", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not self.seconds > 0:
            raise ValueError(f"seconds must be above 0, got {self.seconds}")


@dataclass(frozen=True)
class Plan:
    """What was found.

    Args:
        figures: All that the verdict follows from.
        verdict: What to do.
        sizes: Bytes by part.
        views_per_s: Of the pass as it ran here, disk aside.
        limited_by: What the pass waited for: read, compute or write.
        num_measured: Views of the pass that was measured.
        training: Steps, teacher and reading.
        pixel_forms: Ways to the pixels of a view, from the smallest to the largest.
        disk: Rates of the disk.
        fits_memory: Whether a whole cache stays in memory after its first epoch, so that the disk does not limit it.
        image_bytes: Mean size of an image file.
    """

    figures: Figures
    verdict: Verdict
    sizes: PlannedBytes
    views_per_s: float
    limited_by: str
    num_measured: int
    training: TrainingCosts
    pixel_forms: list[PixelForm]
    disk: DiskRates
    fits_memory: bool
    image_bytes: float

    @property
    def memory_saved_bytes(self) -> int | None:
        """Memory of the accelerator that a step without the teacher does not take; None where it was not measured."""
        cached, online = self.training.cached_peak_bytes, self.training.online_peak_bytes
        return None if cached is None or online is None else online - cached

    def facts(self) -> dict[str, Any]:
        """All figures as plain values; a break-even that is never reached is None."""
        figures, even = self.figures, self.figures.break_even_epochs
        return {
            **asdict(self),
            "size_bytes": figures.size_bytes,
            "pass_total_s": figures.pass_total_s,
            "cached_epoch_s": figures.cached_epoch_s,
            "online_epoch_s": figures.online_epoch_s,
            "break_even_epochs": even if even < float("inf") else None,
            "memory_saved_bytes": self.memory_saved_bytes,
        }


@dataclass(frozen=True)
class _Images:
    """The images of a plan.

    Args:
        data: Where those are that are measured with.
        source: The same, opened.
        first_bytes: Sizes of the files in the order of a short pass, as many as one can have.
        num_images: Of the cache.
        total_bytes: Of all their files.
    """

    data: str
    source: Source
    first_bytes: list[int]
    num_images: int
    total_bytes: int


def make_plan(config: PlanConfig, *, on_note: Callable[[str], None] = lambda _: None) -> Plan:
    """Measure and decide; what is written lies in a temporary folder on the disk, and is removed.

    Args:
        config: What is planned.
        on_note: Called before each measurement with what it is.

    Raises: any KdcacheError that the pass or a run would raise.
    """
    if not config.disk.is_dir():
        raise UsageError(f"{config.disk}: is not a folder; name one on the disk that the cache shall lie on")
    with torch.device("meta"):  # a name that does not exist is found before minutes are spent
        create_timm_model(config.student.name, kwargs=config.student.kwargs)
    free = shutil.disk_usage(config.disk).free
    with tempfile.TemporaryDirectory(prefix=".kdcache-plan-", dir=config.disk) as text:
        folder = Path(text)
        images = _images(config, folder)
        pass_config = replace(config.extract, data=images.data)
        rehearsals = rehearse(
            pass_config, folder, most_images=len(images.first_bytes), seconds=config.seconds, on_note=on_note
        )
        on_note(f"steps of {config.student.name}, the teacher beside them, reading")
        cache, refers = rehearsals[-1].cache, config.extract.images == "reference"
        source = images.source if refers else None
        training = measure_training(cache, config.student, source=source, seconds=config.seconds / 2)
        on_note("the same views stored as JPEG and as raw pixels")
        forms = measure_pixel_forms(
            pass_config, folder, cache=cache, replay_s=training.online_read_s, seconds=config.seconds / 2
        )
        sizes = _sizes(config, images, rehearsals)
        on_note("disk")
        rates = disk_rates(config.disk, _record_bytes(cache.columns), seconds=config.seconds / 4)
    return _plan(config, images, rehearsals[-1], training, forms, sizes, rates, free)


def _images(config: PlanConfig, folder: Path) -> _Images:
    if config.has_data:
        assert config.extract.data is not None, "the config checks it"
        data = config.extract.data
    else:
        (folder / "pictures").mkdir()
        data = str(folder / "pictures")
        write_pictures(folder / "pictures", min(_NUM_PICTURES, config.num_images or _NUM_PICTURES))
    source = open_source(data, config.extract.source_rules)
    measured = replace(config.extract, per_class=None, per_class_seed=None, limit=None)
    first = [source.size_bytes(position) for position in plan_source(source, measured).positions]
    if not config.has_data:
        assert config.num_images is not None, "the config checks it"
        return _Images(data, source, first, config.num_images, config.num_images * config.image_bytes)
    chosen = [source.size_bytes(position) for position in plan_source(source, config.extract).positions]
    count = config.num_images or len(chosen)
    return _Images(data, source, first, count, round(sum(chosen) / len(chosen) * count))


def _sizes(config: PlanConfig, images: _Images, rehearsals: list[Rehearsal]) -> PlannedBytes:
    copies = config.extract.images == "embed"
    return plan_bytes(
        rehearsals,
        [sum(images.first_bytes[: each.num_images]) if copies else 0 for each in rehearsals],
        num_images=images.num_images,
        planned_image_bytes=images.total_bytes if copies else 0,
        shard_samples=config.extract.shard_samples,
    )


def _record_bytes(columns: list[Any]) -> int:
    return max(column.stride_bytes for column in columns)


def _plan(
    config: PlanConfig,
    images: _Images,
    rehearsal: Rehearsal,
    training: TrainingCosts,
    forms: list[PixelForm],
    sizes: PlannedBytes,
    rates: DiskRates,
    free: int,
) -> Plan:
    num_records = images.num_images * config.extract.views
    image_bytes = images.total_bytes / images.num_images
    # An epoch reads one view of each image, and the image itself where its pixels are not stored.
    read_bytes = sum(sizes.columns.values()) / num_records + (0 if sizes.pixels else image_bytes)
    fits = sizes.total < _MEMORY_FRACTION * usable_memory()
    cached_disk_s, online_disk_s = (
        (0.0, 0.0) if fits else (size / rates.read_bytes_per_s for size in (read_bytes, image_bytes))
    )
    written = sizes.total / num_records / rates.write_bytes_per_s
    figures = Figures(
        num_images=images.num_images,
        num_views=config.extract.views,
        size_bytes=sizes.total,
        free_bytes=free,
        pass_s=max(rehearsal.seconds_per_view, written),
        step_s=training.step_s,
        teacher_s=training.teacher_s,
        cached_read_s=max(training.cached_read_s, cached_disk_s),
        online_read_s=max(training.online_read_s, online_disk_s),
        epochs=config.epochs,
    )
    limited = rehearsal.report.times.bottleneck if figures.pass_s > written else "the disk"
    return Plan(
        figures,
        decide(figures),
        sizes,
        1 / rehearsal.seconds_per_view,
        limited,
        rehearsal.report.num_records,
        training,
        forms,
        rates,
        fits,
        image_bytes,
    )
