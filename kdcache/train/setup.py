"""From a configuration and a cache to all that a training loop needs; every misfit is found before the first step."""

from dataclasses import dataclass, replace

import timm
import torch

from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.distributed.env import WorkerEnv
from kdcache.errors import CacheMismatchError, Remedy, UsageError
from kdcache.images import open_again
from kdcache.methods.base import Method
from kdcache.models.names import with_square_size
from kdcache.seeds import derived_seed
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.stream.records import chosen_samples
from kdcache.students.student import StudentSpec, build_student
from kdcache.train.bind import bind, columns_of
from kdcache.train.config import RunConfig
from kdcache.train.step import DistillationStep
from kdcache.views import EvalView

DEFAULT_BATCH_SIZE = 64
# Of an epoch: with fewer a run of some epochs would be a handful of steps, and what fills no batch much of the images.
_LEAST_BATCHES = 4
_DEFAULT_CROP_PCT = 0.875


@dataclass(frozen=True)
class Setup:
    """What is trained and on what.

    Args:
        method: The method.
        spec: The student as data.
        step: Student and loss.
        columns: What is streamed, each column once.
        view: How the student is evaluated.
        class_names: Of the student's classes by index; empty where they have no names.
    """

    method: Method
    spec: StudentSpec
    step: DistillationStep
    columns: list[Column]
    view: EvalView
    class_names: list[str]


def prepare(config: RunConfig, cache: Cache) -> Setup:
    """Choose columns, build the student and make sure that everything fits.

    Raises: CacheMismatchError for another teacher, TapError for a missing column, ModelError, GridMismatchError,
        UsageError for labels, classes or widths that do not fit.
    """
    method = config.method
    if any(term.needs().teacher for term in method.active):
        _check_teacher(config, cache, list(cache.groups))
    columns = columns_of(method, cache, config.data.codec)
    used = list({column.name: column for of_term in columns for column in of_term}.values())
    _check_teacher(config, cache, [column.group for column in used])
    if config.online and not used:
        raise UsageError(f"method {method.name} reads no teacher, so online=true would be ignored; leave it out")
    image_size = _image_size(config, cache)
    spec = StudentSpec(
        name=config.student,
        kwargs=config.student_kwargs,
        num_classes=_num_classes(config, cache, used),
        image_size=image_size,
        change=method.change.with_width(lambda: _width(method, used, cache)),
    )
    # Global state: every rank must begin with the same weights, and every rerun too.
    torch.manual_seed(derived_seed("student", config.seed))
    student = build_student(spec, weights=config.student_weights)
    try:
        terms, modules = bind(method, columns, student, cache, image_size)
    except ValueError as error:
        raise UsageError(str(error)) from None
    step = DistillationStep(student, terms, modules)
    view = _eval_view(config, cache, image_size)
    return Setup(method, spec, step, used, view, _class_names(config, cache, spec.num_classes))


def make_loader(config: RunConfig, cache: Cache, setup: Setup, env: WorkerEnv, device: torch.device) -> CacheLoader:
    """The stream of this rank's batches.

    Raises: UsageError for batch sizes that do not fit the cache or the ranks, SourceError.
    """
    config = with_batch_size(config, cache, env)
    assert config.batch_size is not None, "just chosen"
    if config.batch_size % (env.world_size * config.accumulate):
        raise UsageError(
            f"batch size {config.batch_size} does not divide among {env.world_size} ranks times {config.accumulate} "
            "pieces; choose a multiple"
        )
    source = open_again(config.data.source, cache.manifest.fingerprint.source.rules)
    try:
        stream = _stream(config, config.batch_size)
        return CacheLoader(
            cache,
            [] if config.online else setup.columns,
            stream,
            source=source,
            rank=env.rank,
            world_size=env.world_size,
            device=device,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def with_batch_size(config: RunConfig, cache: Cache, env: WorkerEnv) -> RunConfig:
    """The same run with a batch size, where it leaves that open: 64, halved while an epoch has too few batches.

    Raises: UsageError for settings of the stream that do not fit the cache.
    """
    if config.batch_size is not None:
        return config
    sizes = [shard.num_samples for shard in cache.manifest.shards]
    try:
        stream = _stream(config, 1)
        num_views = stream.order(sizes, cache.num_views, chosen_samples(cache, stream)).num_rows
    except ValueError as error:
        raise UsageError(str(error)) from None
    size, parts = DEFAULT_BATCH_SIZE, env.world_size * config.accumulate
    while size > 1 and num_views // size < _LEAST_BATCHES:
        size //= 2
    return replace(config, batch_size=max(parts, size // parts * parts))


def _stream(config: RunConfig, batch_size: int) -> StreamConfig:
    data = config.data
    return StreamConfig(
        batch_size=batch_size,
        seed=config.seed,
        per_class=data.per_class,
        per_class_seed=data.per_class_seed,
        window=data.window,
        views_per_sample=data.views_per_sample,
        epoch_of=data.epoch_of,
        tail=data.tail,
        num_threads=data.num_threads,
        memory_budget=data.memory_budget,
        access=data.access,
        check=data.check,
        pixels=data.pixels,
        check_pixels=data.check_pixels,
        require_labels=config.method.needs_labels,
    )


def _check_teacher(config: RunConfig, cache: Cache, groups: list[str]) -> None:
    """At least one of the groups must hold the teacher that the run asks for, if it asks for one."""
    known = {name: cache.groups[name].manifest.fingerprint.teacher for name in groups}
    teachers = {name: teacher.name for name, teacher in known.items() if teacher is not None}
    if config.teacher is None or not teachers or config.teacher in teachers.values():
        return
    held = ", ".join(f"group {name} holds teacher {teacher!r}" for name, teacher in teachers.items())
    raise CacheMismatchError(f"{cache.paths}: {held}, this run wants {config.teacher!r}", remedy=Remedy.ADD_TEACHER)


def _width(method: Method, used: list[Column], cache: Cache) -> int:
    """Channels of the teacher's tokens, which the student's change takes over."""
    of_terms = [column for column in used if column.kind == "patch"]
    widths = {column.shape[-1] for column in of_terms or cache.columns if column.kind == "patch"}
    if len(widths) != 1:
        found = f"several: {', '.join(map(str, sorted(widths)))}" if widths else "none"
        raise UsageError(
            f"{method.change.name} takes its width from the patch columns in use, and there are {found}",
            remedy=Remedy.SET_WIDTH,
        )
    return widths.pop()


def _image_size(config: RunConfig, cache: Cache) -> int:
    image_size = config.image_size or cache.manifest.fingerprint.views.size
    own = with_square_size(config.student_kwargs, where=config.student).get("img_size", image_size)
    if own != image_size:
        raise UsageError(
            f"student_kwargs img_size={own}, and the student is given images of {image_size} px; set image_size={own} "
            "to have the views resized, or leave it out"
        )
    return image_size


def _num_classes(config: RunConfig, cache: Cache, used: list[Column]) -> int:
    known = cache.manifest.fingerprint.source.num_classes
    needs_labels = config.method.needs_labels
    if needs_labels and known == 0:
        raise UsageError(
            f"{cache.paths}: the images have no labels, and method {config.method.name} needs them",
            remedy=Remedy.TRAIN_WITHOUT_LABELS,
        )
    logits = [column for column in used if column.kind == "logits"]
    _check_same_classes(config, cache, logits)
    chosen = config.num_classes or (logits[0].shape[0] if logits else known)
    if needs_labels and chosen < known:
        raise UsageError(
            f"the labels go up to {known - 1}, the student would have {chosen} classes; set num_classes={known}"
        )
    for column in logits:
        if chosen != column.shape[0]:
            raise UsageError(
                f"the teacher has {column.shape[0]} classes at {column.label}, the student would have {chosen}",
                remedy=Remedy.LEAVE_OUT_CLASSES_OR_LOGITS,
            )
    return max(chosen, 1)


def _check_same_classes(config: RunConfig, cache: Cache, logits: list[Column]) -> None:
    """One head cannot learn the labels of some classes and the teacher's distribution over others."""
    known = cache.manifest.fingerprint.source.num_classes
    if config.same_classes and not logits:
        raise UsageError("same_classes=true would be ignored: no term reads a teacher's logits; leave it out")
    if not config.method.needs_labels:
        return
    for column in logits:
        num_classes = column.shape[0]
        is_told = config.same_classes or cache.manifest.fingerprint.source.is_part_of(num_classes)
        if num_classes == known - 1 and not _has_class_zero(cache):
            raise UsageError(
                f"{cache.paths.root}: the labels run from 1 to {known - 1}, the classes of the teacher's logits from 0 "
                f"to {num_classes - 1} ({column.name}): the labels seem to begin at 1; count them from 0",
                remedy=Remedy.EXTRACT_ELSEWHERE,
            )
        if num_classes != known and not (is_told and num_classes > known):
            raise UsageError(
                f"{cache.paths}: the labels have {known} classes, the teacher's logits {num_classes} "
                f"({column.name}), and method {config.method.name} trains one head on both: class 0 of the labels "
                "would be taken for class 0 of the teacher",
                remedy=Remedy.SEPARATE_CLASSES if num_classes > known else Remedy.LEAVE_OUT_LABELS_OR_LOGITS,
            )


def _has_class_zero(cache: Cache) -> bool:
    return any((cache.index(shard).labels == 0).any() for shard in cache.manifest.shards)


def _class_names(config: RunConfig, cache: Cache, num_classes: int) -> list[str]:
    """The names of the labels' classes, unless the student has those of a teacher."""
    names = list(cache.manifest.fingerprint.source.class_names)
    is_of_labels = config.method.needs_labels or config.same_classes or len(names) == num_classes
    return names if is_of_labels else []


def _eval_view(config: RunConfig, cache: Cache, image_size: int) -> EvalView:
    views = cache.manifest.fingerprint.views
    known = timm.get_pretrained_cfg(config.student)
    crop_pct = config.eval.crop_pct or (known.crop_pct if known is not None else None) or _DEFAULT_CROP_PCT
    return EvalView(
        size=image_size,
        crop_pct=crop_pct,
        interpolation=views.interpolation,
        mean=tuple(views.mean),
        std=tuple(views.std),
        exif=views.exif,
        alpha=views.alpha,
    )
