"""The training loop: batches from the cache, steps, metrics, checkpoints. It loads no teacher itself."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from kdcache.cache.cache import Cache, open_cache
from kdcache.cache.column import Column
from kdcache.distributed.env import WorkerEnv, worker_env
from kdcache.distributed.process_group import any_rank, choose_device, process_group, sum_over_ranks
from kdcache.errors import InterruptedRunError, KdcacheError, Remedy, UsageError
from kdcache.images import Source, open_source
from kdcache.interrupt import StopRequest, graceful_stop
from kdcache.models import count_parameters
from kdcache.models.factored import count_dense_parameters
from kdcache.stream.batch import Batch
from kdcache.stream.loader import CacheLoader
from kdcache.stream.targets import PackedTargets
from kdcache.train.checkpoint import Checkpoints
from kdcache.train.config import RunConfig
from kdcache.train.evaluate import Accuracy, check_classes, evaluate
from kdcache.train.folder import (
    AVERAGED_WEIGHTS,
    WEIGHTS,
    begin_run,
    read_summary,
    save_weights,
    write_summary,
)
from kdcache.train.kept_weights import check_milestones, kept_names
from kdcache.train.metrics import MetricsLog
from kdcache.train.origin import save_facts
from kdcache.train.setup import Setup, make_loader, prepare
from kdcache.train.summary import peak_memory_bytes, term_losses
from kdcache.train.trainer import Trainer

OnEvent = Callable[[str, dict[str, Any]], None]
OnlineTargets = Callable[[Batch], dict[str, PackedTargets]]
LoadTeachers = Callable[[Cache, list[Column], torch.device], OnlineTargets]


@dataclass
class _Progress:
    """What a checkpoint keeps beside weights, plain numbers; `epochs` are finished ones, `best_epoch` one of them."""

    steps: int = 0
    epochs: int = 0
    images: int = 0
    train_s: float = 0.0
    wait_s: float = 0.0
    best_top1: float = 0.0
    best_epoch: int | None = None
    accuracy: dict[str, Any] = field(default_factory=dict)


class _Run:
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
    ) -> None:
        self.online = online
        self.config, self.folder, self.setup, self.loader = config, folder, setup, loader
        self.env, self.device = env, device
        self.trainer = Trainer(config, setup, env, device, steps_per_epoch=len(loader))
        self.checkpoints = Checkpoints(folder, keep=config.checkpoint.keep)
        self.progress = _Progress()
        self.eval_source: Source | None = open_source(config.eval.data) if config.eval.data is not None else None

    def restore(self, on_event: OnEvent) -> int:
        """Load the newest checkpoint, if any. Returns: how many bytes of the metrics belong to it."""
        state = self.checkpoints.load_latest(lambda text: on_event("warning", {"text": text}))
        if state is None:
            return 0
        self.trainer.load_state_dict(state["trainer"])
        self.loader.load_state_dict(state["stream"])
        self.progress = _Progress(**state["progress"])
        if self.device.type == "cpu":
            # Another number would change the last bits of what follows.
            torch.set_num_threads(state["cpu_threads"])
        on_event("resume", {"step": self.progress.steps})
        # The process may have died between this checkpoint and the weights kept of it.
        self.keep_weights()
        return state["metrics_bytes"]

    def save(self, log: MetricsLog | None) -> None:
        """Write a checkpoint; only the main rank does."""
        if log is not None:
            self.checkpoints.save(
                self.progress.steps,
                {
                    "trainer": self.trainer.state_dict(),
                    "stream": self.loader.state_dict(),
                    "progress": asdict(self.progress),
                    "metrics_bytes": log.sync(),
                    "cpu_threads": torch.get_num_threads(),
                },
            )

    def keep_weights(self) -> None:
        """Write the weights of the epoch just finished where they are to be kept; only the main rank does."""
        progress = self.progress
        if self.env.is_main and progress.epochs and progress.steps == progress.epochs * len(self.loader):
            is_best = progress.best_epoch == progress.epochs
            names = kept_names(progress.epochs, is_best=is_best, every=self.config.checkpoint.milestone_every)
            for name in names:
                save_weights(self.folder / name, self.trainer.student.model)  # pyright: ignore[reportArgumentType]

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
            self.progress.steps += 1
            self.progress.images += self.config.batch_size
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
            self.trainer.student,
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


def train(
    cache_folder: Path,
    folder: Path,
    config: RunConfig,
    *,
    env: WorkerEnv | None = None,
    load_teachers: LoadTeachers | None = None,
    on_event: OnEvent = lambda kind, values: None,
) -> dict[str, Any]:
    """Train a student from a cache, or resume a run that was interrupted.

    Args:
        cache_folder: A finished cache.
        folder: The run folder; holds config, metrics, checkpoints, weights and summary.
        config: The run.
        env: This rank; None reads the environment.
        load_teachers: For ``config.online``: gives the function from a batch to its targets, such as
            `kdcache.teacher.online.online_teachers`. Nothing here loads a teacher by itself.
        on_event: Called on the main rank with ``step``, ``eval``, ``resume``, ``warning`` and their values.

    Returns: the summary, also in ``summary.json``.
    Raises: any KdcacheError; checkpoints are safe after each of them.
    """
    if config.online != (load_teachers is not None):
        raise UsageError("online=True and load_teachers go together: give both, or neither to train from the cache")
    check_milestones(config)
    env = env or worker_env()
    device = choose_device(config.device, env)
    if config.cpu_threads is not None:
        torch.set_num_threads(config.cpu_threads)
    cache = open_cache(cache_folder)
    setup = prepare(config, cache)
    with process_group(env, device), graceful_stop() as stop:
        loader = make_loader(config, cache, setup, env, device)
        if env.is_main:
            begin_run(folder, config, cache_digest=cache.identity(setup.columns), world_size=env.world_size)
        # Nobody looks into the folder before the main rank has prepared it.
        sum_over_ranks(torch.zeros(1, device=device), env)
        if (finished := read_summary(folder)) is not None:
            return finished
        if env.is_main:
            save_facts(folder, setup, cache, online=config.online)
            _announce(setup, on_event)
        online = None if load_teachers is None else load_teachers(cache, setup.columns, device)
        run = _Run(config, folder, setup, loader, env, device, online)
        check_classes(run.eval_source, list(cache.manifest.fingerprint.source.class_names))
        size_bytes = run.restore(on_event)
        log = MetricsLog(folder, tensorboard=config.tensorboard, size_bytes=size_bytes) if env.is_main else None
        try:
            while run.progress.epochs < config.epochs:
                run.finish_epoch(log, stop, on_event)
        finally:
            if log is not None:
                log.close()
        summary = _summary(run)
        if env.is_main:
            _finish(folder, run, summary)
        return summary


def _announce(setup: Setup, on_event: OnEvent) -> None:
    if setup.step.student.note:
        on_event("warning", {"text": f"student weights: {setup.step.student.note}"})
    if not setup.step.reads_logits:
        on_event("warning", {"text": "no term reads the student's logits, so its head stays untrained"})


def _summary(run: _Run) -> dict[str, Any]:
    progress, config = run.progress, run.config
    return {
        **progress.accuracy,
        **({"best_top1": progress.best_top1, "best_epoch": progress.best_epoch} if progress.accuracy else {}),
        "method": config.method.name,
        "student": config.student,
        "num_parameters": count_parameters(run.trainer.student),
        "num_dense_parameters": count_dense_parameters(run.trainer.student),
        "epochs": config.epochs,
        "num_train_images": sum(run.loader.order.shard_sizes),
        "steps": progress.steps,
        "teacher": "online" if config.online else "cache",
        "images_per_s": progress.images / progress.train_s,
        "step_ms": 1000 * progress.train_s / progress.steps,
        "stall_share": progress.wait_s / progress.train_s,
        "terms": term_losses(run.setup.step, run.folder if run.env.is_main else None, config.epochs - 1),
        "target_bytes_per_view": sum(column.stride_bytes for column in run.loader.records.columns),
        "peak_memory_bytes": peak_memory_bytes(run.device),
        "precision": run.trainer.precision,
        "fused_operations": run.trainer.forms,
        "device": str(run.device),
    }


def _finish(folder: Path, run: _Run, summary: dict[str, Any]) -> None:
    save_weights(folder / WEIGHTS, run.trainer.student.model)  # pyright: ignore[reportArgumentType]
    averaged = run.trainer.averaged_student
    if averaged is not None:
        save_weights(folder / AVERAGED_WEIGHTS, averaged.model)  # pyright: ignore[reportArgumentType]
    write_summary(folder, summary)
