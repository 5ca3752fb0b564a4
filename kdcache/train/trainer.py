"""One optimizer step, and everything whose state it changes."""

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdcache.distributed.env import WorkerEnv
from kdcache.errors import UsageError
from kdcache.ops import watch_forms
from kdcache.seeds import derived_seed
from kdcache.stream.batch import Batch
from kdcache.train.config import RunConfig
from kdcache.train.optimizer import LearningRate, make_optimizer
from kdcache.train.setup import Setup

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Weights, optimizer, loss scale and averaged weights of a run.

    Randomness inside a step (drop-path, dropout) is seeded by the step's number, so no random state is saved.

    Args:
        config: The run.
        setup: What is trained.
        env: This rank.
        device: Where it runs.
        steps_per_epoch: Optimizer steps in an epoch.

    Attributes:
        precision: Of the forward passes: fp32, bf16 or fp16.
        forms: What fused operations ran as, and why; see `ops.watch_forms`.

    Raises: UsageError for fp16 on a CPU or checkpointing that the student does not know.
    """

    def __init__(
        self, config: RunConfig, setup: Setup, env: WorkerEnv, device: torch.device, *, steps_per_epoch: int
    ) -> None:
        self._config, self._setup, self._env, self._device = config, setup, env, device
        self.precision = (
            ("fp32" if device.type == "cpu" else "bf16") if config.precision == "auto" else config.precision
        )
        if self.precision == "fp16" and device.type == "cpu":
            raise UsageError("precision fp16 needs an accelerator; use bf16 or fp32 on a CPU")
        self.forms: dict[str, str] = {}
        self._step = setup.step.to(device).train()
        if config.grad_checkpointing:
            if not hasattr(self._step.student.model, "set_grad_checkpointing"):
                raise UsageError(f"{config.student} knows no gradient checkpointing; leave out grad_checkpointing=true")
            self._step.student.model.set_grad_checkpointing(True)  # pyright: ignore[reportCallIssue]
        assert config.batch_size is not None, "with_batch_size() first"
        self._optimizer = make_optimizer(self._step, config.optimizer, batch_size=config.batch_size)
        self._learning_rate = LearningRate(
            self._optimizer, config.scheduler, epochs=config.epochs, steps_per_epoch=steps_per_epoch
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self._ema = ModelEmaV3(self._step.student, decay=config.ema_decay) if config.ema_decay else None
        self._forward: nn.Module = torch.compile(self._step) if config.compile else self._step  # pyright: ignore
        if env.world_size > 1:
            ids = [device.index] if device.type == "cuda" else None
            # Without a term on the logits, the head and what lies behind the last tap get no gradient.
            unused = not setup.step.reads_logits
            self._forward = DistributedDataParallel(self._forward, device_ids=ids, find_unused_parameters=unused)

    @property
    def student(self) -> nn.Module:
        """The student with its raw weights."""
        return self._step.student

    @property
    def averaged_student(self) -> nn.Module | None:
        """The student with averaged weights, if the run keeps them."""
        return self._ema.module if self._ema is not None else None

    def step(self, batch: Batch, step: int) -> tuple[dict[str, Tensor], float]:
        """One optimizer step on this rank's part of a global batch.

        Args:
            batch: On any device.
            step: Number of the step in the whole run, from 0.

        Returns: the loss terms of this rank's part, detached, and the learning rate used.
        """
        torch.manual_seed(derived_seed("step", self._config.seed, step, self._env.rank))
        rate = self.set_rate(step)
        self._optimizer.zero_grad(set_to_none=True)
        batch = batch.to(self._device)
        pieces = self._config.accumulate
        size = len(batch) // pieces
        total: dict[str, Tensor] = {}
        for piece in range(pieces):
            rows = slice(piece * size, (piece + 1) * size)
            with self._no_sync(piece < pieces - 1):
                terms = self._run(batch, rows)
                self._scaler.scale(terms["loss"] / pieces).backward()
            for name, value in terms.items():
                total[name] = total.get(name, 0) + value.detach() / pieces
        if self._config.optimizer.clip_grad is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._step.parameters(), self._config.optimizer.clip_grad)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._ema is not None:
            self._ema.update(self._step.student)
        return total, rate

    def set_rate(self, step: int) -> float:
        """Set the learning rate of a step of the whole run, from 0, and return it."""
        return self._learning_rate.set(step)

    def state_dict(self) -> dict[str, Any]:
        """Everything a step changes."""
        return {
            "model": self._step.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "ema": self._ema.state_dict() if self._ema is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` gave."""
        self._step.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self._ema is not None:
            self._ema.load_state_dict(state["ema"])

    def _run(self, batch: Batch, rows: slice) -> dict[str, Tensor]:
        targets = {column.name: batch.targets[column.name].rows(rows) for column in self._setup.columns}
        images = self._resized(batch.normalized(rows))
        with self._autocast(), watch_forms(self.forms):
            return self._forward(images, batch.labels[rows], targets)[0]

    def _resized(self, images: Tensor) -> Tensor:
        """The views at the student's size, where the run asks for another than the teacher's."""
        size = self._setup.spec.image_size
        if images.shape[-1] == size:
            return images
        return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=_AUTOCAST[self.precision])

    def _no_sync(self, skip: bool) -> contextlib.AbstractContextManager[Any]:
        if skip and isinstance(self._forward, DistributedDataParallel):
            return self._forward.no_sync()
        return contextlib.nullcontext()
