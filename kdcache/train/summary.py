"""Figures of a finished run."""

import resource
import statistics
from pathlib import Path
from typing import Any

import torch

from kdcache.config import as_plain
from kdcache.train.metrics import read_metrics
from kdcache.train.step import DistillationStep


def term_losses(step: DistillationStep, folder: Path | None, epoch: int) -> list[dict[str, Any]]:
    """What was summed: for each term label, name, weight, columns, student_taps, settings, and its mean loss.

    Args:
        step: What was trained.
        folder: The run folder with its metrics; None for a rank that does not write them.
        epoch: The losses are means over the logged steps of this one, None where there are none.
    """
    logged = [] if folder is None else [entry for entry in read_metrics(folder, "step") if entry.get("epoch") == epoch]
    taps = [str(tap) for tap in step.student.taps]
    return [
        {
            "label": bound.label,
            "name": bound.term.name,
            "weight": bound.term.weight,
            "loss": statistics.fmean(entry[bound.label] for entry in logged) if logged else None,
            "columns": [column.name for column in bound.columns],
            "student_taps": [taps[number] for number in bound.tap_numbers],
            "settings": as_plain(bound.term),
        }
        for bound in step.terms
    ]


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use so far: of the accelerator where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: its maximum survives exec, so it may be that of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
