"""All peers, and why some of them are not here."""

import importlib
import logging
import warnings

import torch

from benchmarks.peers.base import Loader

PEERS = {
    "np.memmap": ("memmap_loader", "MemmapLoader"),
    "np.memmap, threaded by hand": ("memmap_loader", "ThreadedMemmapLoader"),
    "h5py": ("h5py_loader", "H5pyLoader"),
    "safetensors": ("safetensors_loader", "SafetensorsLoader"),
    "safetensors, threaded by hand": ("safetensors_loader", "ThreadedSafetensorsLoader"),
    "LMDB": ("lmdb_loader", "LmdbLoader"),
    "NVIDIA DALI": ("dali_loader", "DaliLoader"),
    "ffcv": ("ffcv_loader", "FfcvLoader"),
    "webdataset": ("webdataset_loader", "WebdatasetLoader"),
    "wids": ("wids_loader", "WidsLoader"),
    "MosaicML Streaming": ("streaming_loader", "StreamingLoader"),
    "litdata": ("litdata_loader", "LitdataLoader"),
    "grain": ("grain_loader", "GrainLoader"),
}  # name: (module of this package, class)


def installed() -> tuple[list[Loader], dict[str, str]]:
    """An instance of every peer that can be imported, and for each of the others by name the reason."""
    loaders, missing = [], {}
    for name in PEERS:
        try:
            loader = load(name)
            loader.versions()
        except (ImportError, OSError) as error:
            missing[name] = f"{type(error).__name__}: {error}"
        else:
            loaders.append(loader)
    return loaders, missing


def load(name: str) -> Loader:
    """An instance of the peer of that name. Raises: ImportError where its packages are not installed."""
    module, loader = PEERS[name]
    num_threads, level = torch.get_num_threads(), logging.root.level
    try:
        # Some packages warn of what they are not used for here, and some set torch's threads.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(importlib.import_module(f"benchmarks.peers.{module}"), loader)()
    finally:
        torch.set_num_threads(num_threads)
        logging.root.setLevel(level)
