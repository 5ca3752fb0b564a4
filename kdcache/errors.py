"""Every error of kdcache that describes the state of the world rather than a bug.

A caller's mistake in Python is a ``ValueError``; these classes are for what was found on disk, in a model or on the
machine. Each message says where, what was found and what was wanted; what to do is data, a `Remedy`, so that every
surface (the command line, a notebook) can word it in its own terms.
"""

import enum
import re
from collections.abc import Sequence
from typing import Any


class Remedy(enum.Enum):
    """What a user can do about a fault. The command line words it; nothing below knows a flag.

    The comments name the details that an error or fault carries along, where there are any.
    """

    # A cache on disk.
    REPAIR = "repair"
    REBUILD = "rebuild"
    ACCEPT_LOSS = "accept_loss"
    REBUILD_OR_DELETE_GROUP = "rebuild_or_delete_group"  # group
    RESTORE_BASE_OR_DELETE_GROUP = "restore_base_or_delete_group"  # group
    REMOVE_FILE = "remove_file"
    OTHER_TEACHER = "other_teacher"
    UPDATE = "update"
    NAME_HELD = "name_held"  # wanted, held

    # The operating system.
    ALLOW_MORE_FILES = "allow_more_files"
    FREE_MEMORY = "free_memory"
    ALLOW_READING = "allow_reading"
    RESTORE_FILE = "restore_file"
    ANOTHER_FOLDER = "another_folder"
    CHECK_STORAGE = "check_storage"

    # An extraction.
    EXTRACT = "extract"  # path
    EXTRACT_ELSEWHERE = "extract_elsewhere"
    FINISH_EXTRACTION = "finish_extraction"
    SAME_PLAN = "same_plan"
    ADD_GROUP = "add_group"
    ADD_PATCH_TAP = "add_patch_tap"  # wanted, held
    ADD_PIXELS = "add_pixels"  # wanted, held
    WIDER_CODEC = "wider_codec"
    FINER_CODEC = "finer_codec"
    ACCEPT_BAD_IMAGES = "accept_bad_images"
    REMOVE_BAD_IMAGES = "remove_bad_images"
    MAKE_ROOM = "make_room"
    SMALLER_BATCH = "smaller_batch"

    # Images and weights.
    PASS_SOURCE = "pass_source"
    KEYS_TO_LAST_DOT = "keys_to_last_dot"  # choices
    PREFIX_KEYS = "prefix_keys"
    CHOOSE_IMAGE = "choose_image"  # choices
    CHOOSE_LABELS = "choose_labels"  # choices
    NAME_CLASSES = "name_classes"
    NAME_FOLDERS = "name_folders"
    NAME_WEIGHTS = "name_weights"
    LOCAL_WEIGHTS = "local_weights"
    LOCAL_MODEL = "local_model"
    MODEL_OF_WEIGHTS = "model_of_weights"
    GIVE_STUDENT_WEIGHTS = "give_student_weights"

    # Training.
    ADD_COLUMN = "add_column"  # tap, wanted, held
    ADD_COLUMNS = "add_columns"  # wanted, held
    CHOOSE_COLUMN = "choose_column"  # wanted, held
    SET_WIDTH = "set_width"
    ADD_TEACHER = "add_teacher"
    TRAIN_WITHOUT_LABELS = "train_without_labels"
    LEAVE_OUT_CLASSES_OR_LOGITS = "leave_out_classes_or_logits"
    LEAVE_OUT_LABELS_OR_LOGITS = "leave_out_labels_or_logits"
    SEPARATE_CLASSES = "separate_classes"
    NAME_STUDENT_CLASSES = "name_student_classes"
    MATCH_GRID = "match_grid"
    OTHER_TOKENS = "other_tokens"
    STABILISE = "stabilise"
    SAME_RUN = "same_run"
    ACCEPT_VERSIONS = "accept_versions"
    FINISH_TRAINING = "finish_training"
    EVALUATE_WHILE_TRAINING = "evaluate_while_training"
    OTHER_WEIGHTS = "other_weights"
    KEEP_MILESTONES = "keep_milestones"
    REPLACE_EXPORT = "replace_export"
    OTHER_DATA_OR_CLASSES = "other_data_or_classes"
    GIVE_TEACHER_ACCURACY = "give_teacher_accuracy"
    GIVE_EVAL_DATA = "give_eval_data"

    # An analysis.
    ANALYZE = "analyze"  # path
    NAME_ONE_COLUMN = "name_one_column"  # wanted, held
    NAME_ONE_GROUP = "name_one_group"  # wanted, held
    READ_RECORDS = "read_records"


# All that steers a terminal, ends a line or changes the direction of text; and what no encoding can write.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(text: object) -> str:
    r"""Text with control characters as escapes, newlines included (``\\n``): a file may have any name."""
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], str(text))


class KdcacheError(Exception):
    """Base of all errors below; the command line prints message and remedy and exits with 1.

    Args:
        message: Where, what was found, what was wanted: one line, in which control characters of names are escaped.
        lines: What follows it, each on a line of its own.
        remedy: What to do; None where the message leaves no choice.
        details: What the words of the remedy need, and what a program may want to know (``wanted``, ``held``).
    """

    def __init__(
        self, message: str, *, lines: Sequence[str] = (), remedy: Remedy | None = None, **details: Any
    ) -> None:
        super().__init__(message)
        self.lines = tuple(lines)
        self.remedy = remedy
        self.details = details

    def __str__(self) -> str:
        return "\n".join(map(one_line, (super().__str__(), *self.lines)))


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


class StorageError(KdcacheError):
    """The operating system refused to open, read, map or flush a file: too many are open, a disk or mount fails."""


class SourceError(KdcacheError):
    """An image source cannot be opened or listed, or holds duplicate keys."""


class BadImageError(KdcacheError):
    """One image cannot be used. The reason goes to the ledger; the run continues."""


class TooManyBadImagesError(KdcacheError):
    """More images than the stated fraction are bad."""


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


class RankLostError(KdcacheError):
    """Another process of a distributed job has ended, hangs, or never came."""


class MissingExtraError(KdcacheError):
    """An optional dependency is not installed."""


class InterruptedRunError(KdcacheError):
    """A signal asked the run to stop; everything up to here is saved.

    Args:
        message: What was saved and how to resume.
        signal_number: The signal; the exit code is 128 plus this number.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception would make the copy from the message alone.
        return type(self), (str(self), self.signal_number), vars(self)
