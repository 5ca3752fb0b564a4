"""Worker processes of a torch DataLoader, as all peers that are torch datasets use them."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

PREFETCH_FACTOR = 4


def loader_arguments(num_workers: int) -> dict[str, Any]:
    """Arguments of a DataLoader that keeps its workers over epochs and hands over what they batched."""
    return {
        "num_workers": num_workers,
        "persistent_workers": True,
        "prefetch_factor": PREFETCH_FACTOR,
        "pin_memory": False,
        "worker_init_fn": quiet_worker,
    }


def quiet_worker(_worker: int) -> None:
    """Silence torch's warning on memory lent read-only, which is only read here, into a new tensor."""
    warnings.filterwarnings("ignore", message="The given (buffer|NumPy array) is not writable", category=UserWarning)
    torch.set_num_threads(1)


def end_workers(loader: "DataLoader[Any]") -> None:
    """Stop the persistent workers of a loader and wait for them."""
    iterator: Iterator[Any] | None = getattr(loader, "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None
