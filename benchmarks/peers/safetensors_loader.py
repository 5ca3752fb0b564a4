"""safetensors: one file of stacked tensors, mapped without a copy, rows copied into reused buffers."""

from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save_file

from benchmarks.peers.base import Workload
from benchmarks.peers.stacked import StackedLoader


class SafetensorsLoader(StackedLoader):
    """Rows of tensors that safe_open maps."""

    name = files = "safetensors"

    def versions(self) -> dict[str, str]:
        """See the base class."""
        return {"safetensors": safetensors.__version__}

    def storage(self) -> dict[str, str]:
        """See the base class."""
        return {
            "file": "one file, a tensor of all records per field",
            "reading": "safe_open(framework='pt').get_tensor once: a view of the mapped file, no copy",
        }

    def write(self, workload: Workload, folder: Path) -> None:
        """See the base class."""
        stacked = {
            name: np.empty((workload.num_records, *shape), dtype) for name, (dtype, shape) in workload.fields.items()
        }
        stacked["label"] = np.empty(workload.num_records, np.int64)
        for number in range(workload.num_records):
            for name, value in workload.record(number).items():
                stacked[name][number] = value
            stacked["label"][number] = workload.label(number)
        save_file(stacked, folder / "records.safetensors")

    def arrays(self, workload: Workload, folder: Path) -> dict[str, np.ndarray]:
        """See the base class."""
        with safetensors.safe_open(folder / "records.safetensors", framework="pt") as file:
            return {name: file.get_tensor(name).numpy() for name in (*workload.fields, "label")}


class ThreadedSafetensorsLoader(SafetensorsLoader):
    """The same with threads of one's own around it."""

    name = "safetensors, threaded by hand"
    num_threads = 2
