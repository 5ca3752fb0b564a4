"""Optimizer and learning rate: timm's, with the paper's way of stepping as one of two."""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

_LR_BASE_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights move.

    Args:
        name: timm optimizer name.
        lr: Peak learning rate; None takes `lr_per_512` times batch_size / 512.
        lr_per_512: Learning rate for a global batch of 512.
        weight_decay: Not applied to biases and one-dimensional parameters.
        betas: Of Adam-like optimizers.
        eps: Of Adam-like optimizers.
        clip_grad: Largest gradient norm; None for no clipping.
    """

    name: str = "adamw"
    lr: float | None = None
    lr_per_512: float = 5e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_grad: float | None = None

    def __post_init__(self) -> None:
        if self.lr is not None and self.lr <= 0:
            raise ValueError(f"lr must be > 0, got {self.lr}")
        if self.clip_grad is not None and self.clip_grad <= 0:
            raise ValueError(f"clip_grad must be > 0, got {self.clip_grad}")

    def peak_lr(self, batch_size: int) -> float:
        """The peak learning rate for a global batch size."""
        return self.lr if self.lr is not None else self.lr_per_512 * batch_size / _LR_BASE_BATCH


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """How the learning rate moves.

    Args:
        name: timm scheduler name.
        warmup_epochs: None takes a tenth of the epochs, at most 5.
        warmup_lr_ratio: Where the warm-up begins, as a fraction of the peak (the papers: 1e-6 of 2e-3).
        min_lr_ratio: Where the schedule ends, as a fraction of the peak (the papers: 1e-5 of 2e-3).
        step: ``update`` moves the rate before every optimizer step. ``epoch`` sets it once an epoch, from the number
            of the epoch that has just finished, as the papers' code does: epochs 0 and 1 run at the same first rate.
    """

    name: str = "cosine"
    warmup_epochs: int | None = None
    warmup_lr_ratio: float = 5e-4
    min_lr_ratio: float = 5e-3
    step: Literal["update", "epoch"] = "update"

    def warmup(self, epochs: int) -> int:
        """Warm-up epochs of a run of this length."""
        return min(5, epochs // 10) if self.warmup_epochs is None else self.warmup_epochs


def make_optimizer(model: nn.Module, config: OptimizerConfig, *, batch_size: int) -> torch.optim.Optimizer:
    """Build the optimizer over all parameters of a module, fused where its kind can be and the module is on a GPU."""
    on_gpu = all(parameter.is_cuda for parameter in model.parameters())
    fused: dict[str, Any] = {"fused": True} if on_gpu and can_be_fused(config.name) else {}
    return create_optimizer_v2(
        model,
        opt=config.name,
        lr=config.peak_lr(batch_size),
        weight_decay=config.weight_decay,
        betas=config.betas,
        eps=config.eps,
        **fused,
    )


def can_be_fused(name: str) -> bool:
    """Whether an optimizer of timm's names moves all weights in a few launches: torch's own do.

    A step of DeiT-Tiny launches some 1,000 kernels, and on a slow host that is what it waits for: on an H100's, the
    plain AdamW took 5 of 55 ms.
    """
    return "fused" in inspect.signature(get_optimizer_class(name, bind_defaults=False)).parameters


class LearningRate:
    """Sets the learning rate of every step as a function of the step's number, so that resuming needs no state.

    Args:
        optimizer: Whose rate to set.
        config: The schedule.
        epochs: Of the whole run.
        steps_per_epoch: Optimizer steps in an epoch.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: SchedulerConfig, *, epochs: int, steps_per_epoch: int
    ) -> None:
        self._optimizer = optimizer
        self._per_update = config.step == "update"
        self._steps_per_epoch = steps_per_epoch
        peak = optimizer.param_groups[0]["lr"]
        arguments: dict[str, Any] = {"updates_per_epoch": steps_per_epoch} if self._per_update else {}
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=config.name,
            num_epochs=epochs,
            warmup_epochs=config.warmup(epochs),
            warmup_lr=peak * config.warmup_lr_ratio,
            min_lr=peak * config.min_lr_ratio,
            step_on_epochs=not self._per_update,
            **arguments,
        )
        if scheduler is None:
            raise ValueError(f"timm knows no scheduler {config.name!r}")
        self._scheduler: Scheduler = scheduler

    def set(self, step: int) -> float:
        """Set the rate of optimizer step `step` (from 0) and return it."""
        if self._per_update:
            self._scheduler.step_update(step)
        else:
            self._scheduler.step(max(step // self._steps_per_epoch - 1, 0))
        return self._optimizer.param_groups[0]["lr"]
