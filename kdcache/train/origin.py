"""Where a student comes from: method, terms, teachers and images, kept beside it when the cache is gone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import msgspec

from kdcache.cache.cache import Cache
from kdcache.config import as_plain
from kdcache.durable import make_folder, write_changed
from kdcache.errors import CorruptCacheError, Remedy, RunMismatchError
from kdcache.strict_json import dump_sealed, load_sealed
from kdcache.train.folder import WEIGHTS, save_student_facts, save_weights
from kdcache.train.record import versions
from kdcache.train.setup import Setup
from kdcache.train.summary import term_losses

ORIGIN = "origin.json"


@final
@dataclass(frozen=True, kw_only=True)
class TeacherOrigin:
    """A teacher whose outputs a student was trained on, as the manifest of its group describes it.

    Args:
        name: timm model name.
        kwargs: Its further arguments.
        weights: ``hub``, ``file`` or ``random``.
        weights_sha256: Over names and bytes of its tensors.
        config: What timm knew of it: architecture, tag, hf_hub_id, ...
        precision: Of the forward passes.
        columns: Which of its outputs were read, by name, with their codec.
    """

    name: str
    weights: str
    weights_sha256: str
    precision: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)


@final
@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a student learned from.

    Args:
        method: Name of the method.
        change: What it does to the student, as plain data, with its width.
        terms: Of the loss: label, name, weight, columns, student_taps and settings of each.
        teachers: By group of the cache; empty where no term reads one.
        online: Whether the teachers ran beside the student.
        cache: Digest of the cache and the columns in use.
        source_kind: Kind of the images' source.
        subset: per_class and seed of a few-shot subset of it; None for all of it.
        num_images, num_bad_images, num_classes: Images in the cache, images left out as bad, classes of the labels.
        views: How views were drawn, as in the manifest.
        versions: Of the libraries that trained.
    """

    method: str
    change: dict[str, Any]
    terms: list[dict[str, Any]]
    teachers: dict[str, TeacherOrigin]
    online: bool
    cache: str
    source_kind: str
    subset: dict[str, Any] | None
    num_images: int
    num_bad_images: int
    num_classes: int
    views: dict[str, Any]
    versions: dict[str, str]


def origin_of(setup: Setup, cache: Cache, *, online: bool = False) -> Origin:
    """Describe what a setup trains on.

    Args:
        setup: Student and terms.
        cache: What they read.
        online: As in Origin.
    """
    manifest = cache.manifest
    source = manifest.fingerprint.source
    views = msgspec.to_builtins(manifest.fingerprint.views)
    return Origin(
        method=setup.method.name,
        change=as_plain(setup.spec.change),
        terms=[
            {key: value for key, value in term.items() if key != "loss"} for term in term_losses(setup.step, None, 0)
        ],
        teachers=_teachers(setup, cache),
        online=online,
        cache=cache.identity(setup.columns),
        source_kind=source.kind,
        subset=msgspec.to_builtins(source.subset),
        num_images=manifest.num_samples,
        num_bad_images=manifest.num_bad,
        num_classes=source.num_classes,
        views={name: value for name, value in views.items() if name != "fields"},
        versions=versions(),
    )


def save_origin(folder: Path, origin: Origin) -> None:
    """Write it into a run folder."""
    write_changed(folder / ORIGIN, dump_sealed(as_plain(origin)))


def read_origin(folder: Path) -> Origin:
    """Read it from a run folder.

    Raises: RunMismatchError where it is missing or damaged.
    """
    path = folder / ORIGIN
    if not path.is_file():
        raise RunMismatchError(
            f"{path}: no such file; {folder} is not the folder of a finished run", remedy=Remedy.FINISH_TRAINING
        )
    try:
        return msgspec.convert(load_sealed(path.read_bytes(), where=path.name), Origin)
    except (msgspec.ValidationError, CorruptCacheError) as error:
        raise RunMismatchError(f"{path}: does not say where a student comes from ({error}); restore it") from None


def save_facts(folder: Path, setup: Setup, cache: Cache, *, online: bool = False) -> None:
    """Write what is needed to build a student again, and where it comes from.

    Args:
        folder: A run folder.
        setup, cache, online: As in `origin_of`.
    """
    save_origin(folder, origin_of(setup, cache, online=online))
    save_student_facts(folder, setup.spec, setup.view, setup.class_names)


def save_student(folder: Path, setup: Setup, cache: Cache) -> None:
    """Save the student that one's own loop has trained, so that it can be evaluated and exported as that of a run.

    Args:
        folder: Made if needed; gets the weights, what is needed to build the student again, and where it comes from.
        setup: What `prepare` gave; its student holds the trained weights.
        cache: What it was trained on.

    Raises: NotWritableError, DiskFullError.
    """
    make_folder(folder)
    save_facts(folder, setup, cache)
    save_weights(folder / WEIGHTS, setup.step.student.model)


def _teachers(setup: Setup, cache: Cache) -> dict[str, TeacherOrigin]:
    found: dict[str, TeacherOrigin] = {}
    for name in dict.fromkeys(column.group for column in setup.columns):
        facts = cache.groups[name].manifest.fingerprint.teacher
        if facts is None:  # stored pixels
            continue
        found[name] = TeacherOrigin(
            name=facts.name,
            kwargs=facts.kwargs,
            weights=facts.weights,
            weights_sha256=facts.weights_sha256,
            config=facts.pretrained_cfg,
            precision=facts.precision,
            columns=[column.name for column in setup.columns if column.group == name],
        )
    return found
