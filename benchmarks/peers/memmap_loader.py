"""np.memmap: one file of stacked records a field, copied into reused buffers."""

from pathlib import Path

import numpy as np

from benchmarks.peers.base import Workload
from benchmarks.peers.stacked import StackedLoader


class MemmapLoader(StackedLoader):
    """Rows taken from mapped npy files."""

    name = files = "np.memmap"

    def versions(self) -> dict[str, str]:
        """See the base class."""
        return {"numpy": np.__version__}

    def storage(self) -> dict[str, str]:
        """See the base class."""
        return {"file": "one npy file a field, opened by np.load(mmap_mode='r') and mapped once"}

    def write(self, workload: Workload, folder: Path) -> None:
        """See the base class."""
        mapped = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (workload.num_records, *shape))
            for name, (dtype, shape) in workload.fields.items()
        }
        for number in range(workload.num_records):
            for name, value in workload.record(number).items():
                mapped[name][number] = value
        labels = [workload.label(number) for number in range(workload.num_records)]
        np.save(folder / "label.npy", np.array(labels, np.int64))

    def arrays(self, workload: Workload, folder: Path) -> dict[str, np.ndarray]:
        """See the base class."""
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in (*workload.fields, "label")}


class ThreadedMemmapLoader(MemmapLoader):
    """The same with threads of one's own around it: as far as numpy can be taken by hand."""

    name = "np.memmap, threaded by hand"
    num_threads = 2
