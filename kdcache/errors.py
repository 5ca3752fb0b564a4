"""Every error of kdcache that describes the state of the world rather than a bug.

A caller's mistake in Python is a ``ValueError``; these classes are for what was found on disk, in a model or on the
machine. Each message says where, what was found, what was wanted and what to do; the command line prints it as it is.
"""

import enum


class Remedy(enum.Enum):
    """What a user can do about a fault. The command line words it; nothing below knows a flag."""

    REPAIR = "move the damaged shards aside, then run the same extraction again"
    REBUILD = "make the index and the manifest again from the tars"
    REBUILD_OR_DELETE_GROUP = "rebuild this group, or delete its folder"
    EXTRACT_ELSEWHERE = "extract again into another folder"
    REMOVE_FILE = "remove it"
    OTHER_TEACHER = "the cache is not this teacher's: extract again, or use the versions in the manifest"


class KdcacheError(Exception):
    """Base of all errors below; the command line prints its message and exits with 1."""


class UsageError(KdcacheError):
    """The command line or a configuration asks for something that does not exist; exit code 2."""


class CacheMismatchError(KdcacheError):
    """The cache on disk was made by a different plan (teacher, views, codecs, ...) than the one asked for."""


class CorruptCacheError(KdcacheError):
    """Bytes of a cache are not what its manifest promises."""


class IncompleteCacheError(KdcacheError):
    """The cache has no manifest yet: its extraction has not finished."""


class CacheBusyError(KdcacheError):
    """Another live job writes to this cache."""


class ShardConflictError(KdcacheError):
    """Two workers wrote different bytes for one shard."""


class DiskFullError(KdcacheError):
    """No space (or quota, or file size limit) left for a file."""


class NotWritableError(KdcacheError):
    """A folder or file cannot be created or written."""


class SourceError(KdcacheError):
    """An image source cannot be opened or listed, or holds duplicate keys."""


class BadImageError(KdcacheError):
    """One image cannot be used. The reason goes to the ledger; the run goes on."""


class TooManyBadImagesError(KdcacheError):
    """More images than the stated share are bad."""


class BadRecordError(KdcacheError):
    """A teacher output holds NaN or Inf, or does not survive its codec."""


class ModelError(KdcacheError):
    """A teacher or student cannot be built: unknown name, wrong arguments, weights that do not fit."""


class TapError(KdcacheError):
    """A tap does not exist in this model or this cache."""


class GridMismatchError(KdcacheError):
    """Student and teacher cut the image into different token grids."""


class RunMismatchError(KdcacheError):
    """A run folder holds a run with another configuration, or a damaged checkpoint."""


class MissingExtraError(KdcacheError):
    """An optional dependency is not installed."""


class InterruptedRunError(KdcacheError):
    """A signal asked the run to stop; everything up to here is saved.

    Args:
        message: What was saved and how to go on.
        signal_number: The signal; the exit code is 128 plus this number.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
