"""A small teacher for the demo: a ViT trained on the digits in a plain loop, in well under a minute on two cores."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from kdcache.images import Source, decode_image, open_source
from kdcache.models import create_timm_model
from kdcache.pixels import normalize_pixels
from kdcache.seeds import derived_bits, derived_seed
from kdcache.train.folder import save_weights
from kdcache.views import ViewRecipe, draw_view, replay_view

_MEAN = _STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class DigitsTeacher:
    """The teacher and how it is trained.

    Args:
        name: timm model.
        kwargs: Its arguments; 16 tokens of 4 x 4 pixels, which are 2 x 2 of the original.
        size: S in pixels.
        scale: Range of the crop's fraction of the area, for training and for the cached views.
        epochs, batch_size, lr: Of the loop.
        seed: Of weights, order and crops.
    """

    name: str = "vit_tiny_patch16_224"
    kwargs: dict[str, Any] = field(
        default_factory=lambda: {
            "img_size": 16,
            "patch_size": 4,
            "embed_dim": 96,
            "depth": 4,
            "num_heads": 3,
            "num_classes": 10,
        }
    )
    size: int = 16
    scale: tuple[float, float] = (0.6, 1.0)
    epochs: int = 30
    batch_size: int = 64
    lr: float = 2e-3
    seed: int = 0


def train_digits_teacher(
    path: Path, config: DigitsTeacher, on_epoch: Callable[[int, float], None] = lambda epoch, top1: None
) -> float:
    """Train the teacher and write its weights as safetensors.

    Args:
        path: The weights file.
        config: What to train.
        on_epoch: Called with the number of finished epochs and, after the last, the accuracy (else 0).

    Returns: top-1 accuracy on the held-out digits, in percent.
    """
    torch.manual_seed(derived_seed("digits teacher", config.seed))
    model = create_timm_model(config.name, kwargs=config.kwargs)
    source = open_source("digits:train")
    recipe = ViewRecipe(name="rrc-flip", size=config.size, scale=config.scale, flip=0.0)
    labels = torch.tensor([image.label for image in source.images])
    steps = len(labels) // config.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=steps * config.epochs, pct_start=0.1, cycle_momentum=False
    )
    for epoch in range(config.epochs):
        images = _views(source, recipe, seed=config.seed, view=epoch)
        order = torch.from_numpy(
            np.argsort(derived_bits(len(labels), "digits order", config.seed, epoch), kind="stable")
        )
        for rows in order[: steps * config.batch_size].split(config.batch_size):
            loss = F.cross_entropy(model(images[rows]), labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        on_epoch(epoch + 1, 0.0)
    save_weights(path, model)
    top1 = _accuracy(model, config)
    on_epoch(config.epochs, top1)
    return top1


def _views(source: Source, recipe: ViewRecipe, *, seed: int, view: int) -> torch.Tensor:
    pixels: list[np.ndarray] = []
    for position, each in enumerate(source.images):
        image = decode_image(source.read(position)).rgb
        drawn = draw_view(recipe, seed=seed, key=each.key, view=view, width=image.width, height=image.height)
        pixels.append(replay_view(image, drawn, size=recipe.size, interpolation="bicubic"))
    return normalize_pixels(torch.from_numpy(np.stack(pixels)), mean=_MEAN, std=_STD)


def _accuracy(model: nn.Module, config: DigitsTeacher) -> float:
    source = open_source("digits:test")
    images = _views(source, ViewRecipe(name="eval", size=config.size), seed=0, view=0)
    labels = torch.tensor([image.label for image in source.images])
    model.eval()
    with torch.inference_mode():
        return 100 * float((model(images).argmax(dim=1) == labels).float().mean())
