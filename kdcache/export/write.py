"""Export a run folder as a folder that timm reads: complete, or without the file that makes it one."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import safetensors.torch
import timm
import torch

from kdcache.durable import fsync_folder, make_folder, remove_stale_temporaries, storage_errors, write_file
from kdcache.errors import ModelError, Remedy, UsageError
from kdcache.export.card import Card, card_text
from kdcache.export.onnx import onnx_bytes, require_onnx
from kdcache.export.timm_config import timm_config
from kdcache.export.weights import measured
from kdcache.models import count_parameters, weights_sha256
from kdcache.strict_json import load_json
from kdcache.students.student import Student, merge_student
from kdcache.train.folder import load_student, read_summary
from kdcache.train.kept_weights import weights_name
from kdcache.train.origin import read_origin
from kdcache.train.record import read_run

MODEL, CONFIG, CARD, ONNX = "model.safetensors", "config.json", "README.md", "model.onnx"
_FILES = (MODEL, CONFIG, CARD, ONNX)
_PROBE_SIZE = 2


@final
@dataclass(frozen=True, kw_only=True)
class Exported:
    """The export that was written.

    Args:
        folder: Where.
        architecture: Name under which timm builds it.
        weights: Which of the run's.
        num_parameters: Of the student.
        weights_sha256: Over names and bytes of its tensors.
        files: Names.
    """

    folder: Path
    architecture: str
    weights: str
    num_parameters: int
    weights_sha256: str
    files: tuple[str, ...]


def export_student(
    run: Path, out: Path, *, weights: str = "last", onnx: bool = False, replace: bool = False
) -> Exported:
    """Write a finished student as ``model.safetensors``, ``config.json`` and ``README.md``, the model card.

    ``timm.create_model("local-dir:OUT", pretrained=True)`` loads it; for a changed student, ``import
    kdcache.students.register`` makes its architecture known to timm. What that loads is compared with the student here,
    to the bit, before anything is written. Adapters that only training needed are merged into their layers.
    ``config.json`` comes last and goes first: a folder without one is not finished, and the same call completes it.

    Args:
        run: A run folder, or what `save_student` wrote.
        out: A folder that holds nothing else.
        weights: ``last``, ``best``, ``ema`` or ``epoch-N``, as in `weights_name`.
        onnx: Whether to write ``model.onnx`` as well, for batches of any size (needs the extra ``onnx``).
        replace: Whether an export that is there is replaced.

    Raises: RunMismatchError for a folder that is not a finished run's or weights that it did not keep; UsageError for
        a folder that holds something else; MissingExtraError; ModelError where timm or ONNX do not give the student's
        own outputs; NotWritableError, DiskFullError.
    """
    if onnx:
        require_onnx()
    _check_folder(out, replace=replace)
    trained, spec, view, class_names = load_student(run, weights=weights_name(run, weights))
    student, spec = merge_student(trained, spec)
    student.eval()
    card = Card(
        spec=spec,
        origin=read_origin(run),
        measured=measured(run, weights),
        run=read_run(run),
        summary=read_summary(run),
        num_parameters=count_parameters(student),
        weights_sha256=weights_sha256(student.model),
        with_onnx=onnx,
    )
    config = timm_config(student.model, spec, view, class_names)
    tensors = {name: tensor.detach().contiguous() for name, tensor in student.model.state_dict().items()}
    files = {MODEL: safetensors.torch.save(tensors, metadata={"format": "pt"}), CARD: card_text(card, config).encode()}
    if onnx:
        files[ONNX] = onnx_bytes(student, view.size)
    files[CONFIG] = json.dumps(config, indent=2, allow_nan=False).encode() + b"\n"
    _check(student, files, view.size, card.weights_sha256)
    _write(out, files)
    return Exported(
        folder=out,
        architecture=config["architecture"],
        weights=weights,
        num_parameters=card.num_parameters,
        weights_sha256=card.weights_sha256,
        files=tuple(files),
    )


def _check_folder(out: Path, *, replace: bool) -> None:
    """Refuse a folder that holds something else, or an export that is not to be replaced; nothing is written.

    Raises: UsageError.
    """
    if not out.is_dir():
        return
    others = sorted(path.name for path in out.iterdir() if not path.name.startswith(".") and path.name not in _FILES)
    config = out / CONFIG
    if others or (config.is_file() and not _is_export(config)):
        raise UsageError(f"{out}: holds {(others or [CONFIG])[0]}, which is not an export's; choose another folder")
    if config.is_file() and not replace:
        raise UsageError(f"{out}: holds an export already", remedy=Remedy.REPLACE_EXPORT)


def _is_export(path: Path) -> bool:
    found: Any = load_json(path.read_bytes(), where=str(path))
    return isinstance(found, dict) and "architecture" in found and "pretrained_cfg" in found


def _check(student: Student, files: dict[str, bytes], size: int, sha256: str) -> None:
    """Load what will be written as any user of timm does, and compare.

    Raises: ModelError where timm does not give the same student.
    """
    with tempfile.TemporaryDirectory(prefix="kdcache-export-") as folder, torch.random.fork_rng(devices=[]):
        for name in (MODEL, CONFIG):
            (Path(folder) / name).write_bytes(files[name])
        try:
            loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        except (RuntimeError, ValueError, TypeError, AssertionError, KeyError) as error:
            raise ModelError(f"timm {timm.__version__} cannot load the exported student: {error}") from None
        images = torch.randn(_PROBE_SIZE, 3, size, size)
        with torch.inference_mode():
            same = torch.equal(loaded(images), student(images))
    if not same or weights_sha256(loaded) != sha256:
        raise ModelError(
            f"timm {timm.__version__} loads another student than that of the run; nothing was written. This is a bug "
            "of kdcache or timm: please report it with the architecture and its arguments"
        )


def _write(out: Path, files: dict[str, bytes]) -> None:
    """Remove what makes an older export one, then write everything, and that file last.

    Raises: NotWritableError, DiskFullError.
    """
    make_folder(out)
    remove_stale_temporaries(out)
    with storage_errors(out, "replace the export in"):
        for name in (CONFIG, *(name for name in _FILES if name not in files)):
            (out / name).unlink(missing_ok=True)
        fsync_folder(out)
    for name in sorted(files, key=CONFIG.__eq__):
        write_file(out / name, files[name])
