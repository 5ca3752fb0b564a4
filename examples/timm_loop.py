"""Train a student from a cache as a timm task, with timm's parts: python examples/timm_loop.py CACHE OUT."""

import sys
from pathlib import Path

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import CheckpointSaver

import kdcache
from kdcache.methods.feature import feature
from kdcache.train.timm_task import CachedDistillationTask

CONFIG = kdcache.RunConfig(student="deit_tiny_patch16_224", method=feature(), epochs=2, batch_size=64)


def main(cache_folder: str, out: str, config: kdcache.RunConfig = CONFIG) -> None:
    """Train; checkpoints hold the student under timm's names, the adapters of the terms, and averages of both."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # kdcache: the task is a timm.task.TrainingTask whose targets come with the batch.
    cache = kdcache.open_cache(cache_folder)
    setup = kdcache.prepare(config, cache)
    task = CachedDistillationTask(setup.step.to(device), device=device)
    loader = kdcache.CacheLoader(
        cache, setup.columns, kdcache.StreamConfig(batch_size=config.batch_size), device=device
    )

    # timm: optimizer without decay where the student wants none, schedule, averaged weights, checkpoints.
    task.setup_ema(decay=0.999)
    optimizer = create_optimizer_v2(task.trainable_module, opt="adamw", lr=1e-3, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=config.epochs, warmup_epochs=0)
    checkpoints = Path(out) / "timm"
    checkpoints.mkdir(parents=True, exist_ok=True)
    saver = CheckpointSaver(task.get_eval_model(), optimizer, checkpoint_dir=str(checkpoints), task=task)
    for epoch in range(epochs):
        task.train()
        for batch in loader:
            result = task(batch.images, batch.labels, batch.targets)
            optimizer.zero_grad()
            result["loss"].backward()
            torch.nn.utils.clip_grad_norm_(task.get_clip_parameters(), 1.0)
            optimizer.step()
            task.update_ema()
        scheduler.step(epoch + 1)
        saver.save_checkpoint(epoch)
        print(f"epoch {epoch}: loss {result['loss'].item():.4f}")

    kdcache.save_student(Path(out), setup, cache)


if __name__ == "__main__":
    main(*sys.argv[1:])
