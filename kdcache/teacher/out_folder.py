"""Folders that a pass must not write to."""

from kdcache.cache.base import BaseFingerprint, read_base
from kdcache.cache.manifest import differences
from kdcache.cache.places import writing_paths
from kdcache.errors import CacheMismatchError, Remedy
from kdcache.remote import Location
from kdcache.teacher.config import ExtractConfig


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
