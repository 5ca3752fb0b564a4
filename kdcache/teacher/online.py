"""Targets from the teachers themselves, batch by batch: what a run from the cache is compared with.

A teacher gets the whole batch of a rank at once, however the student's step cuts it, and keeps its weights in float32
under the autocast of its extraction.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import torch

from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.errors import UsageError
from kdcache.models import parse_tap
from kdcache.stream.batch import Batch
from kdcache.stream.targets import PackedTargets
from kdcache.teacher.rerun import teacher_of_group

Targets = Callable[[Batch], dict[str, PackedTargets]]


def online_teachers(
    cache: Cache, columns: Sequence[Column], device: torch.device, *, weights: Mapping[str, str] | None = None
) -> Targets:
    """Load the teachers of some columns.

    Args:
        cache: The cache; every teacher must be the one that wrote its group.
        columns: What is wanted of them.
        device: Where they run, beside the student.
        weights: By name of the group, as in ExtractConfig; those left out are taken as the manifest says.

    Returns: a function from a batch with pixels to the targets that the cache holds of these views, but not coded:
        float32, whatever the columns' codecs.
    Raises: as `teacher_of_group`; UsageError for weights of a group that no column is of.
    """
    weights = weights or {}
    wanted = {group: [column for column in columns if column.group == group] for group in {c.group for c in columns}}
    if unused := sorted(weights.keys() - wanted.keys()):
        raise UsageError(f"weights of group {unused[0]} would be ignored: the run reads {', '.join(sorted(wanted))}")
    threads = torch.get_num_threads()
    teachers = {}
    for name, own in wanted.items():
        teachers[name] = teacher_of_group(cache, cache.group(name), weights=weights.get(name), device=device)
        teachers[name].set_taps([parse_tap(tap) for tap in dict.fromkeys(column.tap for column in own)])
    # Probing a teacher takes the threads of its extraction; the steps take those of the run.
    torch.set_num_threads(threads)
    plain = {column.name: _uncoded(column) for column in columns}

    def targets(batch: Batch) -> dict[str, PackedTargets]:
        assert batch.pixels is not None, "the stream delivers no pixels"
        pixels = batch.pixels.to(device)
        outputs = {name: teacher.outputs(pixels) for name, teacher in teachers.items()}
        return {
            name: PackedTargets(column, {"values": outputs[column.group][column.tap].clone()})
            for name, column in plain.items()
        }

    return targets


def _uncoded(column: Column) -> Column:
    """The same column under the codec that keeps float32."""
    return Column(column.group, msgspec.structs.replace(column.facts, codec="fp32", params={}))
