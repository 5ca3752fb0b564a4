"""One run on one rank: its steps, evaluations and checkpoints, and what is kept of them."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch

from kdcache.distributed.env import WorkerEnv
from kdcache.distributed.process_group import any_rank, sum_over_ranks
from kdcache.errors import InterruptedRunError, KdcacheError, Remedy
from kdcache.images import Source
from kdcache.interrupt import StopRequest
from kdcache.stream.batch import Batch
from kdcache.stream.loader import CacheLoader
from kdcache.stream.targets import PackedTargets
from kdcache.train.checkpoint import Checkpoints
from kdcache.train.config import RunConfig
from kdcache.train.evaluate import Accuracy, evaluate
from kdcache.train.folder import save_weights
from kdcache.train.kept_weights import kept_names
from kdcache.train.metrics import MetricsLog
from kdcache.train.setup import Setup
from kdcache.train.sharding import own_part
from kdcache.train.trainer import Trainer

OnEvent = Callable[[str, dict[str, Any]], None]
OnlineTargets = Callable[[Batch], dict[str, PackedTargets]]


@dataclass
class Progress:
    """What a checkpoint keeps beside weights, plain numbers; `epochs` are finished ones, `best_epoch` one of them."""

    steps: int = 0
    epochs: int = 0
    images: int = 0
    train_s: float = 0.0
    wait_s: float = 0.0
    best_top1: float = 0.0
    best_epoch: int | None = None
    accuracy: dict[str, Any] = field(default_factory=dict)


@final
class Run:
    """One run on one rank, between its first step and its summary."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        setup: Setup,
        loader: CacheLoader,
        env: WorkerEnv,
        device: torch.device,
        online: OnlineTargets | None,
        eval_source: Source | None,
    ) -> None:
        self.online = online
        self.config, self.folder, self.setup, self.loader = config, folder, setup, loader
        self.env, self.device = env, device
        self.trainer = Trainer(config, setup, env, device, steps_per_epoch=len(loader))
        self.checkpoints = Checkpoints(folder, keep=config.checkpoint.keep)
        self.progress = Progress()
        self._loss: torch.Tensor | None = None
        self.eval_source = eval_source

    def restore(self, on_event: OnEvent) -> int:
        """Load the newest checkpoint, if any. Returns: how many bytes of the metrics belong to it."""
        state = self.checkpoints.load_latest(lambda text: on_event("warning", {"text": text}))
        if state is None:
            return 0
        self.trainer.load_state_dict(state["trainer"])
        self.loader.load_state_dict(state["stream"])
        self.progress = Progress(**state["progress"])
        if self.device.type == "cpu":
            # Another number would change the last bits of what follows.
            torch.set_num_threads(state["cpu_threads"])
        on_event("resume", {"step": self.progress.steps})
        # The process may have died between this checkpoint and the weights kept of it.
        self.keep_weights()
        return state["metrics_bytes"]

    def check_finite(self) -> None:
        """Refuse to keep a student whose last loss or whose weights are not finite; all ranks decide together.

        Raises: KdcacheError naming the last checkpoint, which was checked in its turn.
        """
        states = [self.trainer.student, self.trainer.averaged_student]
        tensors = [each for state in states if state is not None for each in state.state_dict().values()]
        finite = torch.stack([own_part(each).isfinite().all() for each in tensors]).all()
        bad_loss = not (self._loss is None or bool(self._loss.isfinite()))
        if not any_rank(bad_loss or not finite, self.env, self.device):
            return
        step = self.progress.steps
        what = f"the loss of step {step} is not finite" if bad_loss else f"the weights after step {step} are not finite"
        held = self.checkpoints.paths()
        kept = f"the last good one is {held[-1]}" if held else "no checkpoint was written before"
        raise KdcacheError(f"{what}, and nothing of them was saved; {kept}", remedy=Remedy.STABILISE)

    def save(self, log: MetricsLog | None) -> None:
        """Write a checkpoint, once everything in it is known to be finite; all ranks call this, the main one writes.

        Raises: as `check_finite`.
        """
        self.check_finite()
        trained = self.trainer.state_dict()
        if log is not None:
            self.checkpoints.save(
                self.progress.steps,
                {
                    "trainer": trained,
                    "stream": self.loader.state_dict(),
                    "progress": asdict(self.progress),
                    "metrics_bytes": log.sync(),
                    "cpu_threads": torch.get_num_threads(),
                },
            )

    def keep_weights(self) -> None:
        """Write the weights of the epoch just finished where they are to be kept; all ranks call this."""
        progress = self.progress
        if progress.epochs and progress.steps == progress.epochs * len(self.loader):
            is_best = progress.best_epoch == progress.epochs
            self.save_weights(
                *kept_names(progress.epochs, is_best=is_best, every=self.config.checkpoint.milestone_every)
            )

    def save_weights(self, *names: str) -> None:
        """Write the student's raw weights under these names; all ranks call this, and the main one writes."""
        weights = self.trainer.weights() if names else {}
        for name in names if self.env.is_main else ():
            save_weights(self.folder / name, weights)

    def train_epoch(self, log: MetricsLog | None, stop: StopRequest, on_event: OnEvent) -> None:
        """Train to the end of the current epoch.

        Raises: InterruptedRunError after saving, KdcacheError when the loss is not finite.
        """
        every = self.config.checkpoint.every_steps
        began, waited = time.perf_counter(), self.loader.wait_s
        for batch in self.loader:
            if self.online is not None:
                batch = replace(batch, targets=self.online(batch))
            terms, rate = self.trainer.step(batch, self.progress.steps)
            self._loss = terms["loss"]
            self.progress.steps += 1
            self.progress.images += self.loader.order.batch_size
            now = time.perf_counter()
            self.progress.train_s += now - began
            self.progress.wait_s += self.loader.wait_s - waited
            began, waited = now, self.loader.wait_s
            logs = self.progress.steps % self.config.log_every == 0
            if logs:
                self._log_step(terms, rate, log, on_event)
            if (logs or self.env.world_size == 1) and any_rank(bool(stop), self.env, self.device):
                self.save(log)
                raise InterruptedRunError(
                    f"stopped after step {self.progress.steps}, which is saved in {self.checkpoints.folder}; run the "
                    "same command again to resume",
                    stop.signal_number or 15,
                )
            if every is not None and self.progress.steps % every == 0 and self.progress.steps % len(self.loader):
                self.save(log)
                began = time.perf_counter()

    def _log_step(self, terms: dict[str, torch.Tensor], rate: float, log: MetricsLog | None, on_event: OnEvent) -> None:
        names = list(terms)
        values = torch.stack([terms[name].float() for name in names])
        means = (sum_over_ranks(values, self.env) / self.env.world_size).tolist()
        progress = self.progress
        if not all(math.isfinite(value) for value in means):
            raise KdcacheError(
                f"the loss of step {progress.steps} is {dict(zip(names, means, strict=True))}; the last good "
                f"checkpoint is in {self.checkpoints.folder}",
                remedy=Remedy.STABILISE,
            )
        entry: dict[str, Any] = {
            "epoch": (progress.steps - 1) // len(self.loader),
            "lr": rate,
            **dict(zip(names, means, strict=True)),
            "images_per_s": progress.images / progress.train_s,
            "stall_share": progress.wait_s / progress.train_s,
        }
        if log is not None:
            log.write("step", progress.steps, entry)
            on_event("step", {"step": progress.steps, "num_steps": len(self.loader) * self.config.epochs, **entry})

    def finish_epoch(self, log: MetricsLog | None, stop: StopRequest, on_event: OnEvent) -> None:
        """Train to the end of the epoch, evaluate where it is due, save, and keep the weights worth keeping."""
        # A signal may have stopped the run between the epoch's last step and this evaluation.
        if self.progress.steps < (self.progress.epochs + 1) * len(self.loader):
            self.train_epoch(log, stop, on_event)
        self.check_finite()
        self.evaluate(self.progress.epochs, log, on_event)
        self.progress.epochs += 1
        # In this order a checkpoint knows the best epoch before its weights are there, never the other way round.
        self.save(log)
        self.keep_weights()

    def evaluate(self, epoch: int, log: MetricsLog | None, on_event: OnEvent) -> None:
        """Evaluate the student (raw weights) if it is due after this epoch."""
        due = (epoch + 1) % self.config.eval.every_epochs == 0 or epoch + 1 == self.config.epochs
        if self.eval_source is None or not due:
            return
        accuracy: Accuracy = evaluate(
            self.trainer.whole_student(),
            self.eval_source,
            self.setup.view,
            num_classes=self.setup.spec.num_classes,
            batch_size=self.config.eval.batch_size,
            device=self.device,
            env=self.env,
        )
        self.progress.accuracy = asdict(accuracy)
        if self.progress.best_epoch is None or accuracy.top1 > self.progress.best_top1:
            self.progress.best_top1, self.progress.best_epoch = accuracy.top1, epoch + 1
        entry = {"epoch": epoch, **asdict(accuracy)}
        if log is not None:
            log.write("eval", self.progress.steps, entry)
            on_event("eval", entry)
