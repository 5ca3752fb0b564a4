"""Folders that a pass must not write to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcache.cache.base import BaseFingerprint, read_base
from kdcache.cache.hdf5 import decoded
from kdcache.cache.index import read_index
from kdcache.cache.job import read_ledger
from kdcache.cache.manifest import differences
from kdcache.cache.paths import INDEX, LEDGER, CachePaths
from kdcache.cache.places import writing_paths
from kdcache.errors import CacheMismatchError, KdcacheError, Remedy
from kdcache.remote import Location
from kdcache.storage import entries
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.source_plan import SourcePlan

_KEYS_FIELD = "source.keys_sha256: "
_MAX_NAMED = 3


def refuse_other_kinds(out: Location) -> None:
    """Refuse the folder of a run or of an exported model, both of which have a ``config.json``.

    Raises: CacheMismatchError.
    """
    paths = writing_paths(out)
    if (paths.root / "config.json").is_file():
        raise CacheMismatchError(
            f"{out} holds a run or a model, not a cache. Nothing was changed", remedy=Remedy.ANOTHER_FOLDER
        )


def refuse_another_base(config: ExtractConfig, base: BaseFingerprint) -> None:
    """A teacher with other views than a finished cache has is better added to it: say so before anything is written.

    Raises: CacheMismatchError.
    """
    paths = writing_paths(config.out)
    if not paths.manifest.is_file() or config.group_name in paths.group_names():
        return
    held, _ = read_base(paths)
    differing = differences(held.fingerprint, base)
    if config.accept_versions:
        differing = [line for line in differing if not line.startswith("versions.")]
    if differing:
        raise CacheMismatchError(
            f"{config.out}: this cache is finished and has no group {config.group_name!r} (it holds "
            f"{', '.join(paths.group_names()) or 'none'}), and this run plans other images or views:",
            lines=[f"  {each}" for each in differing],
            remedy=Remedy.ADD_GROUP,
        )


@contextmanager
def naming_images(out: Location, plan: SourcePlan) -> Iterator[None]:
    """Name the images that are new and gone where a refusal within the block shows a hash of all their keys.

    Args:
        out: The cache; the images of one on object storage are not named, its indexes are not here.
        plan: The images of this run.
    """
    try:
        yield
    except CacheMismatchError as error:
        if isinstance(out, Path):
            error.lines = tuple(
                f"  {_changed_images(CachePaths(out), plan) or line.strip()}" if _KEYS_FIELD in line else line
                for line in error.lines
            )
        raise


def _changed_images(paths: CachePaths, plan: SourcePlan) -> str:
    """How the images of a cache, as far as they are done, differ from a plan's; empty where that cannot be read."""
    held: set[str] = set()
    try:
        for index in entries(paths.root / INDEX, suffix=".h5"):
            held.update(decoded(key) for key in read_index(index).source_keys)
            held.update(bad.source_key for bad in read_ledger(paths.shard(LEDGER, index.stem)))
    except KdcacheError:
        return ""
    images = plan.source.images
    gone = sorted(held - {image.key for image in images})
    new = [images[position].key for position in plan.positions if images[position].key not in held]
    if not paths.manifest.is_file():  # what is pending is not known by name
        return f"source: the cache has other images than this run: {_counted(gone)} gone of {len(held)} that are done"
    if not new and not gone:
        return "source: the cache has these images in another order, or more of them"
    return f"source: the cache has other images than this run: {_counted(new)} new, {_counted(gone)} gone"


def _counted(keys: list[str]) -> str:
    more = ", …" if len(keys) > _MAX_NAMED else ""
    return f"{len(keys)} ({', '.join(keys[:_MAX_NAMED])}{more})" if keys else "0"
