"""The folder of an analysis: ``analysis.json`` for the numbers, ``curves.h5`` for the curves."""

import io
from pathlib import Path
from typing import Any

import h5py as typeless_h5py
import msgspec

from kdcache.analysis.result import FORMAT, Analysis, Curves
from kdcache.durable import make_folder, write_file
from kdcache.errors import CorruptCacheError, Remedy, UsageError
from kdcache.strict_json import dump_json, load_json

h5py: Any = typeless_h5py

RESULT, CURVES = "analysis.json", "curves.h5"


def write_analysis(folder: Path, analysis: Analysis, curves: Curves) -> None:
    """Write both files; the numbers last, so that they are there only when everything is.

    Args:
        folder: Made if it is not there.
        analysis: The numbers.
        curves: Arrays by their path in the HDF5 file.
    """
    make_folder(folder)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for path, values in sorted(curves.items()):
            file.create_dataset(path, data=values)
    (folder / RESULT).unlink(missing_ok=True)
    write_file(folder / CURVES, buffer.getvalue())
    write_file(folder / RESULT, dump_json(msgspec.to_builtins(analysis)))


def read_analysis(folder: Path) -> tuple[Analysis, Curves]:
    """What `write_analysis` wrote.

    Raises: UsageError where there is none, or one of another version; CorruptCacheError for damaged files.
    """
    path = folder / RESULT
    if not path.is_file():
        raise UsageError(f"{folder}: no {RESULT} here", remedy=Remedy.ANALYZE, path=folder)
    value = load_json(path.read_bytes(), where=str(path))
    found = value.get("format") if isinstance(value, dict) else None
    if found != FORMAT:
        raise UsageError(f"{path}: format {found!r}, this kdcache reads {FORMAT}", remedy=Remedy.ANALYZE, path=folder)
    try:
        analysis = msgspec.convert(value, Analysis)
        with h5py.File(folder / CURVES, "r") as file:
            curves = _arrays(file)
    except (msgspec.ValidationError, OSError) as error:
        raise CorruptCacheError(
            f"{folder}: not what was written ({error})", remedy=Remedy.ANALYZE, path=folder
        ) from None
    return analysis, curves


def _arrays(file: Any) -> Curves:
    found: Curves = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    file.visititems(visit)
    return found
