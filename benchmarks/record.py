"""What every result carries: device, versions, date, and the spread of the repeats."""

import datetime
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import kdcache


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and the versions, for the head of a result."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "date": datetime.date.today().isoformat(),
        "device": name,
        "cpu_count": len(os.sched_getaffinity(0)),
        "versions": {"kdcache": kdcache.__version__, "torch": str(torch.__version__), "timm": timm.__version__},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 20th and 80th percentile, and how many there were."""
    low, middle, high = np.percentile(values, [20, 50, 80])
    return {"median": float(middle), "p20": float(low), "p80": float(high), "repeats": len(values)}


def write(path: Path, result: dict[str, Any]) -> None:
    """Write one result as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")
