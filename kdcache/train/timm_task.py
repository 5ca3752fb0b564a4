"""The cache as a timm training task, for users of timm's own training script."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdcache.errors import MissingExtraError
from kdcache.stream.targets import PackedTargets
from kdcache.train.step import DistillationStep

try:
    from timm.task import TrainingTask
except ImportError:
    raise MissingExtraError(
        "this timm has no timm.task; update it with pip install -U timm, or use kdcache's own training loop"
    ) from None


class CachedDistillationTask(TrainingTask):
    """timm's distillation tasks without their teacher: targets come with the batch.

    Args:
        step: Student and loss, for example ``prepare(config, cache).step``.
        device, dtype, verbose: As in timm's TrainingTask.
    """

    def __init__(
        self,
        step: DistillationStep,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(device=device, dtype=dtype, verbose=verbose)
        self.trainable_module: nn.Module = step

    def prepare_distributed(self, device_ids: list[int] | None = None, **ddp_kwargs: Any) -> "CachedDistillationTask":
        """Wrap what is trained in DDP."""
        if isinstance(self.trainable_module, DistillationStep):
            ddp_kwargs.setdefault("find_unused_parameters", not self.trainable_module.reads_logits)
        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        return self

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """The student alone: the terms' modules are no part of what is evaluated or exported."""
        step = super().get_eval_model(module, ema)
        unwrapped = getattr(step, "module", step)
        return unwrapped.student if isinstance(unwrapped, DistillationStep) else unwrapped

    def forward(
        self, input: Tensor, target: Tensor, targets: Mapping[str, PackedTargets] | None = None
    ) -> dict[str, Tensor]:
        """Loss terms of a batch.

        Args:
            input: (B, 3, S, S), normalised.
            target: (B,) class indices.
            targets: What the cache holds of these views, by name of the column: ``batch.targets``.

        Returns: ``loss``, ``output`` (logits), and the unweighted terms.
        """
        terms, logits = self.trainable_module(input, target, targets or {})
        return {**terms, "output": logits}
