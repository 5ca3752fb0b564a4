"""The frozen teacher: built once, read at its taps, never trained."""

import contextlib
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm.data
import torch
from torch import nn

from kdcache.cache.facts import TeacherFacts
from kdcache.errors import KdcacheError, ModelError, Remedy, UsageError
from kdcache.models import Tap, TapReader, TimmModel, create_timm_model, load_weights, weights_sha256
from kdcache.models.build import size_arguments
from kdcache.models.names import with_square_size
from kdcache.models.taps import check_logits, has_classifier, num_blocks, token_grid
from kdcache.pixels import normalize_pixels
from kdcache.seeds import derived_seed

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_KEPT_CONFIG = [
    "architecture",
    "tag",
    "hf_hub_id",
    "input_size",
    "interpolation",
    "crop_pct",
    "crop_mode",
    "mean",
    "std",
    "num_classes",
]


@dataclass(frozen=True)
class TapFacts:
    """What a tap gives: the shape of one record, and the grid of its patch tokens (empty otherwise)."""

    tap: Tap
    shape: tuple[int, ...]
    grid: tuple[int, ...]


class Teacher:
    """A timm model in evaluation mode on its device.

    Args:
        model: What is built; kwargs may hold the size.
        weights: ``hub``, ``random`` or a file.
        image_size: S, or None for the model's own.
        seed: Of random weights.
        device: Where it runs.
        precision: auto, fp32, bf16 or fp16.
        cpu_threads: Threads of a forward on a CPU; None takes the cores of this process.

    Raises: ModelError.

    Attributes:
        image_size: S.
        data_config: timm's: interpolation, mean, std, crop_pct, crop_mode.
        facts: For the fingerprint.
        note: Which weights of several in a file were taken; None where there was no choice.
    """

    def __init__(
        self,
        model: TimmModel,
        weights: str,
        *,
        image_size: int | None,
        seed: int,
        device: torch.device,
        precision: str,
        cpu_threads: int | None = None,
    ) -> None:
        name, kwargs = model.name, with_square_size(model.kwargs, where=model.name)
        if image_size is not None and image_size != kwargs.get("img_size", image_size):
            raise UsageError(f"image_size {image_size} contradicts teacher_kwargs img_size={kwargs['img_size']}")
        size = kwargs.get("img_size", image_size)
        # Global state: a random teacher must be the same teacher on every worker and in every rerun.
        torch.manual_seed(derived_seed("teacher", seed))
        arguments = {**(size_arguments(name, size) if size else {}), **kwargs}
        self.model: nn.Module = create_timm_model(
            name, pretrained=weights == "hub", kwargs=arguments, settings=model.settings
        )
        self.note: str | None = None
        if weights not in ("hub", "random"):
            self.note = load_weights(self.model, weights)
        self.data_config: dict[str, Any] = timm.data.resolve_model_data_config(self.model)
        channels, *sides = self.data_config["input_size"]
        if channels != 3 or (size is None and sides[0] != sides[1]):
            raise ModelError(f"{name} takes input {self.data_config['input_size']}; wanted 3 channels and a square")
        self.image_size = int(size or sides[0])
        self.device = device
        self.precision = ("fp32" if device.type == "cpu" else "bf16") if precision == "auto" else precision
        config: Any = self.model.pretrained_cfg
        self.facts = TeacherFacts(
            name=name,
            kwargs=kwargs,
            pretrained_cfg={key: _plain(config[key]) for key in _KEPT_CONFIG if config.get(key) is not None},
            num_blocks=num_blocks(self.model),
            weights=weights if weights in ("hub", "random") else "file",
            weights_sha256=weights_sha256(self.model),
            precision=self.precision,
            device=device.type,
            cpu_threads=(cpu_threads or len(os.sched_getaffinity(0))) if device.type == "cpu" else 0,
            mean=[float(each) for each in self.data_config["mean"]],
            std=[float(each) for each in self.data_config["std"]],
        )
        self.model.to(device).eval().requires_grad_(False)
        self._reader: TapReader | None = None

    @property
    def has_classifier(self) -> bool:
        """Whether there are logits to keep."""
        return has_classifier(self.model)

    def set_taps(self, taps: Sequence[Tap]) -> list[TapFacts]:
        """Choose what `run` returns, and find the shapes with one black image.

        Returns: for each tap, in order, what it gives.
        Raises: TapError, also for a model whose forward gives other logits than its tap.
        """
        self._reader = TapReader(self.model, taps)
        black = np.zeros((1, self.image_size, self.image_size, 3), np.uint8)
        try:
            outputs = self.run(black)
        except (RuntimeError, AssertionError) as error:
            side = self.image_size
            raise ModelError(f"{self.facts.name} does not take RGB images of {side} x {side} pixels: {error}") from None
        if "head/logits" in outputs:
            with torch.inference_mode(), self._autocast():
                logits = torch.from_numpy(outputs["head/logits"]).to(self.device)
                images = self._images(torch.from_numpy(black).to(self.device))
                check_logits(self.model, images, logits)
        facts: list[TapFacts] = []
        for tap in self._reader.taps:
            grid = (
                () if tap.block is None or tap.kind != "patch" else token_grid(self.model, tap.block, self.image_size)
            )
            facts.append(TapFacts(tap, outputs[str(tap)].shape[1:], grid))
        return facts

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """One forward, over pixels normalised for this teacher.

        Args:
            pixels: (B, S, S, 3) uint8.

        Returns: {resolved tap: float32 (B, N, C), logits (B, K) or embedding (B, C)}.
        Raises: KdcacheError when the accelerator runs out of memory.
        """
        with self.on_its_device(len(pixels)):
            outputs = self.outputs(self.to_device(pixels))
            return {tap: values.cpu().numpy() for tap, values in outputs.items()}

    @contextlib.contextmanager
    def on_its_device(self, num_views: int) -> Generator[None]:
        """Where forwards run: with this teacher's threads, and errors of memory in words.

        Raises: KdcacheError when the accelerator runs out of memory.
        """
        if self.facts.cpu_threads:
            torch.set_num_threads(self.facts.cpu_threads)
        try:
            yield
        except torch.OutOfMemoryError:
            raise KdcacheError(
                f"the accelerator has too little memory for {num_views} views at once; finished shards are safe",
                remedy=Remedy.SMALLER_BATCH,
            ) from None

    def to_device(self, pixels: np.ndarray) -> torch.Tensor:
        """Pixels on this teacher's device; on CUDA the copy is queued behind what runs there, without waiting."""
        host = torch.from_numpy(pixels)
        return (
            host.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else host.to(self.device)
        )

    def outputs(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """As `run`, from pixels (B, S, S, 3) uint8 on this teacher's device to float32 tensors there."""
        assert self._reader is not None, "set_taps() first"
        with torch.inference_mode(), self._autocast():
            read = self._reader(self.model, self._images(pixels))
            return {str(tap): values.float() for tap, values in read.items()}

    def _images(self, pixels: torch.Tensor) -> torch.Tensor:
        return normalize_pixels(pixels, mean=self.facts.mean, std=self.facts.std)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_AUTOCAST[self.precision])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
