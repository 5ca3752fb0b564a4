"""Finished runs to export, and what a fresh process without kdcache makes of their exports."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.methods.base import Method
from kdcache.methods.none import none
from kdcache.students.change import Change
from kdcache.train import train
from kdcache.train.origin import save_student
from kdcache.train.setup import prepare
from tests.train.support import tiny_run

_SCRIPT = """
import sys
{block}
import torch, timm
torch.set_num_threads({threads})
given = torch.load("images.pt")
found = {{}}
for name, images in given.items():
    model = timm.create_model("local-dir:" + name, pretrained=True).eval()
    with torch.inference_mode():
        found[name] = model(images)
torch.save(found, "logits.pt")
"""
WITH_KDCACHE = "import kdcache.students.register"
WITHOUT_KDCACHE = 'sys.modules["kdcache"] = None'


def finished(cache: Path, folder: Path, *settings: str, **changes: Any) -> Path:
    """A run of five steps."""
    train(cache, folder, tiny_run("epochs=1", *settings, **changes))
    return folder


def made(cache: Cache, folder: Path, *settings: str, **changes: Any) -> Path:
    """What a run would leave of its student: one that is not trained, but has no weight of a special value either."""
    setup = prepare(tiny_run(*settings, **changes), cache)
    generator = torch.Generator().manual_seed(3)
    for tensor in setup.step.student.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    save_student(folder, setup, cache)
    return folder


def changed(change: Change) -> Method:
    """The labels alone, for a changed student."""
    return replace(none(), change=change)


def images_of(size: int) -> Tensor:
    """(7, 3, S, S)."""
    return torch.randn(7, 3, size, size, generator=torch.Generator().manual_seed(1))


def in_a_fresh_process(code: str, folder: Path) -> str:
    """Run Python in a folder that is not the project's, offline; returns what it printed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def logits_of(exports: dict[Path, int], folder: Path, *, first: str = WITHOUT_KDCACHE) -> dict[Path, Tensor]:
    """Logits of `images_of` by exports loaded with timm in a fresh process, on as many threads as here.

    Args:
        exports: Folders, and the size of their images.
        folder: An empty one to work in.
        first: What the process does before it imports timm.
    """
    torch.save({str(path): images_of(size) for path, size in exports.items()}, folder / "images.pt")
    in_a_fresh_process(_SCRIPT.format(block=first, threads=torch.get_num_threads()), folder)
    return {Path(name): logits for name, logits in torch.load(folder / "logits.pt").items()}
