"""One rank of the benchmark `parallel`: some steps of a student on random images, and what is held afterwards."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdcache.distributed.env import worker_env
from kdcache.distributed.process_group import process_group
from kdcache.students.families import blocks_of
from kdcache.students.student import StudentSpec, build_student
from kdcache.train.optimizer import OptimizerConfig, make_optimizer
from kdcache.train.sharding import divide_module, own_part

_NUM_CLASSES = 1000


def main(parallel: str, text: str, folder: str) -> None:
    """Train, and write bytes by name to ``RANK.json`` in a folder."""
    settings: dict[str, Any] = json.loads(text)
    env, device = worker_env(), torch.device("cpu")
    torch.set_num_threads(1)
    with process_group(env, device):
        before = _status("VmRSS")
        spec = StudentSpec(name=settings["student"], num_classes=_NUM_CLASSES, image_size=settings["image_size"])
        student = build_student(spec)
        module: nn.Module = student
        if parallel == "fsdp":
            divide_module(student, blocks_of(student.network), device)
        else:
            module = DistributedDataParallel(student)
        optimizer = make_optimizer(student, OptimizerConfig(), batch_size=2 * settings["batch_size"])
        side = settings["image_size"]
        for _ in range(settings["steps"]):
            optimizer.zero_grad(set_to_none=True)
            module(torch.rand(settings["batch_size"], 3, side, side)).square().mean().backward()
            optimizer.step()
        parameters = list(student.parameters())
        state = [each for held in optimizer.state.values() for each in held.values() if isinstance(each, Tensor)]
        held = {
            "weights": _size(parameters),
            "gradients": _size(each.grad for each in parameters if each.grad is not None),
            "optimizer": _size(state),
            "after": _status("VmRSS") - before,
            "peak": _status("VmHWM") - before,
        }
    (Path(folder) / f"{env.rank}.json").write_text(json.dumps(held))


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(part.numel() * part.element_size() for part in map(own_part, tensors))


def _status(name: str) -> int:
    """Bytes of this process by a name in /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main(*sys.argv[1:])
