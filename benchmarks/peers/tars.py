"""Shards as tar files, named as webdataset wants them."""

import io
import itertools
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.peers.base import Workload

NUM_SHARDS = 16


def shard_sizes(workload: Workload) -> list[int]:
    """Numbers of records of the shards: `NUM_SHARDS` of them, equal or one apart."""
    ends = [workload.num_records * shard // NUM_SHARDS for shard in range(NUM_SHARDS + 1)]
    return [last - first for first, last in itertools.pairwise(ends)]


def write_tars(workload: Workload, folder: Path, members: Callable[[Workload, int], Mapping[str, bytes]]) -> list[Path]:
    """Write the workload in order, record 7 as members ``000000007.<name>``.

    Args:
        workload: What to write.
        folder: Where to.
        members: Contents by name of the members of one record.
    """
    paths, number = [], 0
    for shard, size in enumerate(shard_sizes(workload)):
        paths.append(folder / f"shard-{shard:04d}.tar")
        with tarfile.open(paths[-1], "w", format=tarfile.USTAR_FORMAT) as tar:
            for _ in range(size):
                for name, content in members(workload, number).items():
                    member = tarfile.TarInfo(f"{number:09d}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                number += 1
    return paths
