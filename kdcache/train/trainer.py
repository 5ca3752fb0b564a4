"""One optimizer step, and everything whose state it changes."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdcache.distributed.env import WorkerEnv
from kdcache.errors import UsageError
from kdcache.ops import watch_forms
from kdcache.seeds import derived_seed
from kdcache.stream.batch import Batch
from kdcache.students.families import blocks_of
from kdcache.students.student import Student, rebuild_student
from kdcache.train.config import RunConfig
from kdcache.train.optimizer import LearningRate, make_optimizer
from kdcache.train.setup import Setup
from kdcache.train.sharding import check_divisible, divide_like, divide_module, divide_optimizer_state, gather

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

    Raises: UsageError for fp16 on a CPU, checkpointing that the student does not know, or an optimizer that FSDP cannot
        divide.
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
        self._divided = config.parallel == "fsdp" and env.world_size > 1
        self._step = (setup.step if self._divided else setup.step.to(device)).train()
        # Copied before the weights are divided, and divided as they are. One tensor at a time then: divided and plain
        # ones do not go into one call.
        self._ema = (
            ModelEmaV3(self._step.student, decay=config.ema_decay, foreach=not self._divided)
            if config.ema_decay
            else None
        )
        if self._divided:
            self._divide()
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
        self._forward: nn.Module = torch.compile(self._step) if config.compile else self._step  # pyright: ignore
        if env.world_size > 1 and not self._divided:
            ids = [device.index] if device.type == "cuda" else None
            # Without a term on the logits, the head and what lies behind the last tap get no gradient.
            unused = not setup.step.reads_logits
            self._forward = DistributedDataParallel(self._forward, device_ids=ids, find_unused_parameters=unused)

    def _divide(self) -> None:
        check_divisible(self._config.optimizer.name)
        divide_module(self._step, blocks_of(self._step.student.network), self._device)
        if (averaged := self.averaged_student) is not None:
            divide_module(averaged, blocks_of(averaged.network), self._device)

    @property
    def student(self) -> Student:
        """The student with its raw weights; under FSDP this rank's part of them."""
        return self._step.student

    @property
    def averaged_student(self) -> Student | None:
        """The student with averaged weights, if the run keeps them; under FSDP this rank's part of them."""
        return self._ema.module if self._ema is not None else None

    def weights(self) -> Mapping[str, Tensor]:
        """The state of the student's model, whole on the main rank; all ranks call this."""
        return self._whole(self.student.model.state_dict())

    def averaged_weights(self) -> Mapping[str, Tensor] | None:
        """As `weights`, of the averaged ones; None where the run keeps none."""
        averaged = self.averaged_student
        return None if averaged is None else self._whole(averaged.model.state_dict())

    def whole_student(self) -> Student:
        """A student to evaluate, with the raw weights whole on every rank; all ranks call this."""
        if not self._divided:
            return self.student
        # Another copy, because ranks run different numbers of batches, and a divided one would wait for all in each.
        whole = rebuild_student(self._setup.spec).to(self._device)
        state = gather(self.student.state_dict())
        for name, buffer in self.student.named_buffers():
            if name in state:  # batch statistics are each rank's own: rank 0's count, as under DDP
                dist.broadcast(buffer, 0)
                state[name] = buffer
        whole.load_state_dict(state)
        return whole

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

    def close(self) -> None:
        """Let go of DDP, before the process group ends.

        Its reducer would be the last to hold the group, and end it under the interpreter's lock, for which a thread of
        gloo may wait that the end waits for: with torch 2.11 a rank hung so after its last step.
        """
        self._forward = self._step

    def state_dict(self) -> dict[str, Any]:
        """Everything a step changes, whole on the main rank; all ranks call this.

        A checkpoint of any number of ranks, and of either `parallel`, is one of one process.
        """
        return self._whole(
            {
                "model": self._step.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "scaler": self._scaler.state_dict(),
                "ema": self._ema.state_dict() if self._ema is not None else None,
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` gave on the main rank."""
        self._step.load_state_dict(divide_like(state["model"], self._step.state_dict()))
        self._optimizer.load_state_dict(divide_optimizer_state(state["optimizer"], self._optimizer))
        self._scaler.load_state_dict(state["scaler"])
        if self._ema is not None:
            self._ema.load_state_dict(divide_like(state["ema"], self._ema.state_dict()))

    def _whole(self, state: dict[str, Any]) -> dict[str, Any]:
        return gather(state, keep=self._env.is_main) if self._divided else state

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
