"""The training loop: batches from the cache, steps, metrics, checkpoints. It loads no teacher itself."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from kdcache.cache.cache import Cache, open_cache
from kdcache.cache.column import Column
from kdcache.cache.keys import keys_digest, labels_digest
from kdcache.config import as_plain
from kdcache.distributed.env import WorkerEnv, worker_env
from kdcache.distributed.process_group import choose_device, gather_values, process_group, sum_over_ranks
from kdcache.errors import RunMismatchError, UsageError
from kdcache.images import Source
from kdcache.interrupt import graceful_stop
from kdcache.models import count_parameters
from kdcache.models.factored import count_dense_parameters
from kdcache.remote import Location
from kdcache.train.config import EvalConfig, RunConfig
from kdcache.train.evaluate import check_labels, open_for_student
from kdcache.train.folder import (
    AVERAGED_WEIGHTS,
    WEIGHTS,
    lock_run,
    read_finished,
    save_weights,
    write_summary,
)
from kdcache.train.kept_weights import check_milestones
from kdcache.train.metrics import MetricsLog
from kdcache.train.origin import save_facts
from kdcache.train.record import begin_run, differences
from kdcache.train.run import OnEvent, OnlineTargets, Run
from kdcache.train.setup import DEFAULT_BATCH_SIZE, Setup, make_loader, prepare, with_batch_size
from kdcache.train.summary import peak_memory_bytes, term_losses

LoadTeachers = Callable[[Cache, list[Column], torch.device], OnlineTargets]


def train(
    cache_folder: Location,
    folder: Path,
    config: RunConfig,
    *,
    env: WorkerEnv | None = None,
    load_teachers: LoadTeachers | None = None,
    accept_versions: bool = False,
    on_event: OnEvent = lambda kind, values: None,
) -> dict[str, Any]:
    """Train a student from a cache, or resume a run that was interrupted; a finished one takes more epochs.

    Args:
        cache_folder: A finished cache, here or on object storage.
        folder: The run folder; holds config, metrics, checkpoints, weights and summary.
        config: The run.
        env: This rank; None reads the environment.
        load_teachers: For ``config.online``: gives the function from a batch to its targets, such as
            `kdcache.teacher.online.online_teachers`. Nothing here loads a teacher by itself.
        accept_versions: Whether other versions of libraries than the run began with may continue it.
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
    setup, is_open = prepare(config, cache), config.batch_size is None
    config = with_batch_size(config, cache, env)
    digest = cache.identity(setup.columns)
    group = process_group(env, device, timeout_s=config.rank_timeout_s)
    with group, graceful_stop() as stop, _lock(folder, env):
        loader = make_loader(config, cache, setup, env, device)
        _check_ranks(config, digest, env)
        eval_source = _open_evaluated(folder, config, setup)
        epochs_done = None
        if env.is_main:
            epochs_done = begin_run(
                folder,
                config,
                cache_digest=digest,
                world_size=env.world_size,
                device_type=device.type,
                evaluation_digest=_digest(eval_source),
                accept_versions=accept_versions,
            )
        # Nobody looks into the folder before the main rank has prepared it.
        sum_over_ranks(torch.zeros(1, device=device), env)
        if (finished := read_finished(folder, config.epochs)) is not None:
            return finished
        if env.is_main:
            save_facts(folder, setup, cache, online=config.online)
            _announce(setup, config.batch_size if is_open else None, on_event)
            if config.parallel == "fsdp" and env.world_size == 1:
                text = "parallel=fsdp: one process has nobody to divide the weights with, and trains as without"
                on_event("warning", {"text": text})
        online = None if load_teachers is None else load_teachers(cache, setup.columns, device)
        run = Run(config, folder, setup, loader, env, device, online, eval_source)
        log = _open_log(run, run.restore(on_event), on_event)
        if epochs_done is not None:
            on_event("warning", {"text": _extended(run, epochs_done)})
        try:
            while run.progress.epochs < config.epochs:
                run.finish_epoch(log, stop, on_event)
        finally:
            if log is not None:
                log.close()
            run.trainer.close()
        summary = _summary(run)
        _finish(folder, run, summary)
        return summary


def _extended(run: Run, epochs: int) -> str:
    rate = run.trainer.set_rate(run.progress.steps)
    return (
        f"the run was finished after {epochs} epochs and goes on to {run.config.epochs}; the learning rate continues "
        f"at {rate:.3g}, where the schedule of {run.config.epochs} epochs is now, so that this is not the run that "
        f"{run.config.epochs} epochs from the beginning would have been"
    )


def _open_evaluated(folder: Path, config: RunConfig, setup: Setup) -> Source | None:
    """The images to evaluate on, looked at before the first epoch and before the folder holds this run."""
    if config.eval.data is None and config.eval.rules != EvalConfig().rules:
        raise UsageError("settings of evaluation images would be ignored: eval.data names none")
    if config.eval.data is None or read_finished(folder, config.epochs) is not None:
        return None
    source = open_for_student(config.eval.data, setup.class_names, setup.spec.num_classes, config.eval.rules)
    check_labels(source, setup.spec.num_classes)
    return source


def _digest(source: Source | None) -> str | None:
    """What is evaluated, wherever it lies."""
    if source is None:
        return None
    keys = keys_digest(image.key for image in source.images)
    return keys_digest([keys, labels_digest(image.label for image in source.images)])


def _lock(folder: Path, env: WorkerEnv) -> AbstractContextManager[None]:
    """Only the main rank writes into the folder, and others may be on machines that do not have it."""
    return lock_run(folder, env.job_id) if env.is_main else nullcontext()


def _check_ranks(config: RunConfig, digest: str, env: WorkerEnv) -> None:
    """Make sure that all ranks train the same run on the same cache.

    Raises: RunMismatchError on every rank, naming what differs.
    """
    first, *others = gather_values({"config": as_plain(config), "cache": digest}, env)
    for rank, other in enumerate(others, start=1):
        if differing := differences(first, other, whose=("rank 0 has", f"rank {rank} has")):
            raise RunMismatchError(
                f"rank {rank} was started with another run than rank 0:",
                lines=[
                    *(f"  {each}" for each in differing),
                    "Nothing was changed: start all ranks with the same command, on copies of the same cache",
                ],
            )


def _open_log(run: Run, size_bytes: int, on_event: OnEvent) -> MetricsLog | None:
    if not run.env.is_main:
        return None
    log = MetricsLog(run.folder, tensorboard=run.config.tensorboard, size_bytes=size_bytes)
    if log.num_lost_bytes:
        on_event(
            "warning",
            {
                "text": f"metrics.jsonl lost {log.num_lost_bytes} bytes from before step {run.progress.steps}; the log "
                "continues with what is left of it"
            },
        )
    return log


def _announce(setup: Setup, chosen_batch: int | None, on_event: OnEvent) -> None:
    if chosen_batch not in (None, DEFAULT_BATCH_SIZE):
        text = f"batch size {chosen_batch}, not {DEFAULT_BATCH_SIZE}: chosen for few images or the ranks"
        on_event("warning", {"text": text})
    if setup.step.student.note:
        on_event("warning", {"text": f"student weights: {setup.step.student.note}"})
    if not setup.step.reads_logits:
        on_event("warning", {"text": "no term reads the student's logits, so its head stays untrained"})


def _summary(run: Run) -> dict[str, Any]:
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


def _finish(folder: Path, run: Run, summary: dict[str, Any]) -> None:
    run.save_weights(WEIGHTS)
    averaged = run.trainer.averaged_weights()
    if run.env.is_main:
        if averaged is not None:
            save_weights(folder / AVERAGED_WEIGHTS, averaged)
        write_summary(folder, summary)
