"""From a configuration and a cache to all that a training loop needs; every misfit is found before the first step."""

from dataclasses import dataclass

import timm
import torch

from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.distributed.env import WorkerEnv
from kdcache.errors import CacheMismatchError, GridMismatchError, Remedy, UsageError
from kdcache.images import open_source
from kdcache.methods import METHODS, Method
from kdcache.models import StudentSpec, build_student
from kdcache.models.student import student_grid
from kdcache.seeds import derived_seed
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.train.config import RunConfig
from kdcache.train.step import DistillationStep
from kdcache.views import EvalView

_DEFAULT_CROP_PCT = 0.875


@dataclass(frozen=True)
class Setup:
    """What is trained and on what.

    Args:
        method: The method.
        spec: The student as data.
        step: Student, adapter and loss.
        logits, features: Columns in use, or None.
        view: How the student is judged.
    """

    method: Method
    spec: StudentSpec
    step: DistillationStep
    logits: Column | None
    features: Column | None
    view: EvalView

    @property
    def columns(self) -> list[Column]:
        """Columns to stream."""
        return [column for column in (self.logits, self.features) if column is not None]


def prepare(config: RunConfig, cache: Cache) -> Setup:
    """Choose columns, build the student and make sure that everything fits.

    Raises: CacheMismatchError for another teacher, TapError for a missing column, ModelError, GridMismatchError,
        UsageError for labels or classes that do not fit.
    """
    fingerprint = cache.manifest.fingerprint
    method = METHODS[config.method.name](config.method)
    group, tap = _group_and_tap(method.tap)
    if method.logit_weight > 0 or method.feature_weight > 0:
        _check_teacher(config, cache, list(cache.groups))
    logits = features = None
    if method.logit_weight > 0:
        logits_group = config.data.logits_group
        logits = cache.find_column(kind="logits", codec=config.data.logits_codec, group=logits_group)
    if method.feature_weight > 0:
        features = cache.find_column(kind="patch", tap=tap, codec=config.data.codec, group=group)
    for column in (logits, features):
        if column is not None:
            _check_teacher(config, cache, [column.group])
    widths = {column.shape[-1] for column in cache.columns if column.kind == "patch"}
    teacher_width = features.shape[-1] if features else (widths.pop() if len(widths) == 1 else 0)
    base = StudentSpec(
        name=config.student,
        kwargs=config.student_kwargs,
        num_classes=_num_classes(config, cache, method, logits),
        image_size=fingerprint.views.size,
    )
    try:
        if logits is not None:
            method.check_logits(logits)
        spec = method.change(base, teacher_width=teacher_width)
    except ValueError as error:
        raise UsageError(str(error)) from None
    # Global state: every rank must begin with the same weights, and every rerun too.
    torch.manual_seed(derived_seed("student", config.seed))
    student = build_student(spec)
    adapter = None
    if features is not None:
        _check_grid(student_grid(student, spec), features, config)
        adapter = method.adapter(_tap_width(student, spec), features.shape[-1])
    step = DistillationStep(student, adapter, method)
    return Setup(method, spec, step, logits, features, _eval_view(config, cache))


def make_loader(config: RunConfig, cache: Cache, setup: Setup, env: WorkerEnv, device: torch.device) -> CacheLoader:
    """The stream of this rank's batches.

    Raises: UsageError for batch sizes that do not fit the cache or the ranks, SourceError.
    """
    data = config.data
    if config.batch_size % (env.world_size * config.accumulate):
        raise UsageError(
            f"batch size {config.batch_size} does not divide among {env.world_size} ranks times {config.accumulate} "
            "pieces; choose a multiple"
        )
    source = open_source(data.source) if data.source is not None else None
    try:
        stream = StreamConfig(
            batch_size=config.batch_size,
            seed=config.seed,
            window=data.window,
            views_per_sample=data.views_per_sample,
            tail=data.tail,
            num_threads=data.num_threads,
            memory_budget=data.memory_budget,
            access=data.access,
            check=data.check,
            pixels=data.pixels,
            check_pixels=data.check_pixels,
            require_labels=setup.method.needs_labels,
        )
        return CacheLoader(
            cache,
            setup.columns,
            stream,
            source=source,
            rank=env.rank,
            world_size=env.world_size,
            device=device,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def _group_and_tap(text: str | None) -> tuple[str | None, str | None]:
    """``GROUP:TAP`` or ``TAP``; None for any."""
    if text is None:
        return None, None
    group, colon, tap = text.rpartition(":")
    return (group if colon else None), tap


def _check_teacher(config: RunConfig, cache: Cache, groups: list[str]) -> None:
    """At least one of the groups must hold the teacher that the run asks for, if it asks for one."""
    known = {name: cache.groups[name].manifest.fingerprint.teacher for name in groups}
    teachers = {name: teacher.name for name, teacher in known.items() if teacher is not None}
    if config.teacher is None or not teachers or config.teacher in teachers.values():
        return
    held = ", ".join(f"group {name} holds teacher {teacher!r}" for name, teacher in teachers.items())
    raise CacheMismatchError(
        f"{cache.paths.root}: {held}, this run wants {config.teacher!r}", remedy=Remedy.ADD_TEACHER
    )


def _num_classes(config: RunConfig, cache: Cache, method: Method, logits: Column | None) -> int:
    known = cache.manifest.fingerprint.source.num_classes
    if method.needs_labels and known == 0:
        raise UsageError(
            f"{cache.paths.root}: the images have no labels, and method {config.method.name} needs them",
            remedy=Remedy.TRAIN_WITHOUT_LABELS,
        )
    chosen = config.num_classes or (logits.shape[0] if logits is not None else known)
    if method.needs_labels and chosen < known:
        raise UsageError(
            f"the labels go up to {known - 1}, the student would have {chosen} classes; set num_classes={known}"
        )
    if logits is not None and chosen != logits.shape[0]:
        raise UsageError(
            f"the teacher has {logits.shape[0]} classes, the student would have {chosen}",
            remedy=Remedy.LEAVE_OUT_CLASSES_OR_LOGITS,
        )
    return max(chosen, 1)


def _tap_width(student: torch.nn.Module, spec: StudentSpec) -> int:
    with torch.inference_mode():
        student.eval()
        _, tokens = student.forward_features(torch.zeros(1, 3, spec.image_size, spec.image_size))  # pyright: ignore
        student.train()
    return int(tokens.shape[-1])


def _check_grid(grid: tuple[int, int], features: Column, config: RunConfig) -> None:
    if list(grid) != features.grid:
        raise GridMismatchError(
            f"the student {config.student} makes {grid[0]} x {grid[1]} patch tokens of these views, the teacher made "
            f"{features.grid[0]} x {features.grid[1]} at {features.tap}; tokens are compared one by one",
            remedy=Remedy.MATCH_GRID,
        )


def _eval_view(config: RunConfig, cache: Cache) -> EvalView:
    views = cache.manifest.fingerprint.views
    known = timm.get_pretrained_cfg(config.student)
    crop_pct = config.eval.crop_pct or (known.crop_pct if known is not None else None) or _DEFAULT_CROP_PCT
    return EvalView(
        size=views.size,
        crop_pct=crop_pct,
        interpolation=views.interpolation,
        mean=tuple(views.mean),
        std=tuple(views.std),
    )
