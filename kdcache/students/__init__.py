"""Student changes by name; change.py says what a change is."""

from typing import TYPE_CHECKING

from kdcache.config import load_named

if TYPE_CHECKING:
    from kdcache.students.change import Change

# Names and first lines only, so that listing them loads nothing.
CHANGES = {
    "none": ("kdcache.students.change:Unchanged", "the timm model as it is"),
    "lift": ("kdcache.students.lift:LiftChange", "last tokens projected to the teacher's width, kept at inference"),
    "widelast": ("kdcache.students.wide_last:WideLastChange", "the last block, or the last three, at greater widths"),
    "weight-copy": (
        "kdcache.students.weight_copy:WeightCopy",
        "every r-th block of a trained model, frozen, with low-rank adapters (WeCoLoRA)",
    ),
    "low-rank": ("kdcache.students.low_rank:LowRank", "every linear layer of the blocks as two of rank r"),
}


def load_change(name: str) -> "type[Change]":
    """The class behind a change's name.

    Raises: UsageError naming all changes.
    """
    return load_named({each: where for each, (where, _) in CHANGES.items()}, name, "student change")
