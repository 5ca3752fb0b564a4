"""Train the teacher of the accuracy benchmark in a plain loop; its weights are safetensors."""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.durable import sha256_file, write_file
from kdcache.images import Source, decode_pixels, open_source
from kdcache.models import count_parameters, create_timm_model
from kdcache.pixels import normalize_pixels
from kdcache.seeds import derived_seed
from kdcache.train.folder import save_weights
from kdcache.train.summary import peak_memory_bytes

_MEAN = _STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class TeacherTraining:
    """What is trained, and how.

    Args:
        name: timm model.
        kwargs: Its arguments.
        size: S, side of the images in pixels.
        images: How many training images it sees; None for all.
        scale: Range of a crop's fraction of the area.
        epochs, batch_size, lr: Of the loop.
        precision: Autocast type, fp32 or bf16.
        seed: Of weights, order and crops.
    """

    name: str = "vit_tiny_patch16_224"
    kwargs: dict[str, Any]
    size: int = 32
    images: int | None = None
    scale: tuple[float, float] = (0.7, 1.0)
    epochs: int
    batch_size: int
    lr: float
    precision: str = "fp32"
    seed: int = 0


def train_teacher(
    config: TeacherTraining, folder: Path, *, train: str, test: str, device: str, cpu_threads: int
) -> None:
    """Write teacher.safetensors and, last, teacher.json with its figures.

    Args:
        config: What to train.
        folder: Where to.
        train, test: Sources as in `open_source`.
        device: As torch names it.
        cpu_threads: Of a step on a CPU.
    """
    torch.set_num_threads(cpu_threads)
    torch.manual_seed(derived_seed("accuracy teacher", config.seed))
    where = torch.device(device)
    model = create_timm_model(config.name, kwargs=config.kwargs).to(where)
    pixels, labels = (each[: config.images].to(where) for each in read_images(open_source(train), config.size))
    steps = len(labels) // config.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=steps * config.epochs, pct_start=0.15, cycle_momentum=False
    )
    train_s = 0.0
    for epoch in range(config.epochs):
        began, total = time.perf_counter(), 0.0
        for rows in torch.randperm(len(labels))[: steps * config.batch_size].split(config.batch_size):
            views = random_crops(normalize_pixels(pixels[rows], mean=_MEAN, std=_STD), config.scale)
            with torch.autocast(where.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
                loss = F.cross_entropy(model(views), labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        mean_loss = float(total) / steps
        train_s += time.perf_counter() - began
        print(f"epoch {epoch + 1} of {config.epochs}: loss {mean_loss:.3f}, {train_s:.0f} s", flush=True)
    save_weights(folder / "teacher.safetensors", model)
    facts = {
        "row": "teacher",
        "seed": config.seed,
        "top1": accuracy(model, *read_images(open_source(test), config.size), device=where),
        "num_parameters": count_parameters(model),
        "steps": steps * config.epochs,
        "step_ms": 1000 * train_s / (steps * config.epochs),
        "peak_memory_bytes": peak_memory_bytes(where),
        "weights_sha256": sha256_file(folder / "teacher.safetensors"),
        "training": asdict(config),
    }
    write_file(folder / "teacher.json", json.dumps(facts).encode())


def read_images(source: Source, size: int) -> tuple[Tensor, Tensor]:
    """Every image and label of a source: (M, S, S, 3) uint8 and (M,).

    Raises: ValueError for an image of another size.
    """
    images: list[np.ndarray] = []
    for position, each in enumerate(source.images):
        rgb = decode_pixels(source.read(position))
        if rgb.shape != (size, size, 3):
            raise ValueError(f"{each.key}: {rgb.shape}; this benchmark's images are {size} x {size}")
        images.append(rgb)
    return torch.from_numpy(np.stack(images)), torch.tensor([image.label for image in source.images])


def random_crops(images: Tensor, scale: tuple[float, float]) -> Tensor:
    """A random box of each image, resized to the whole and mirrored for half of them; (B, 3, S, S) of the same."""
    count = len(images)
    draw = torch.rand(4, count)
    side = torch.sqrt(scale[0] + (scale[1] - scale[0]) * draw[0])
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = side * torch.where(draw[1] < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = side
    theta[:, :, 2] = (1 - side)[:, None] * (2 * draw[2:].T - 1)
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


@torch.inference_mode()
def accuracy(model: nn.Module, pixels: Tensor, labels: Tensor, *, device: torch.device) -> float:
    """Top-1 in percent, on whole images."""
    model.eval()
    right = 0
    for rows in range(math.ceil(len(labels) / 500)):
        part = slice(500 * rows, 500 * rows + 500)
        logits = model(normalize_pixels(pixels[part].to(device), mean=_MEAN, std=_STD))
        right += int((logits.argmax(dim=1).cpu() == labels[part]).sum())
    return 100 * right / len(labels)
