"""Train a student from a cache under Accelerate: accelerate launch examples/accelerate_loop.py CACHE OUT."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

import kdcache
from kdcache.methods.feature import feature

CONFIG = kdcache.RunConfig(student="deit_tiny_patch16_224", method=feature(), epochs=2, batch_size=64)


def main(cache_folder: str, out: str, config: kdcache.RunConfig = CONFIG) -> None:
    """Train; the same command resumes from the last finished epoch."""
    accelerator = Accelerator()

    # kdcache: batches are divided among the processes by the loader itself.
    cache = kdcache.open_cache(cache_folder)
    setup = kdcache.prepare(config, cache)
    loader = kdcache.CacheLoader(
        cache,
        setup.columns,
        kdcache.StreamConfig(batch_size=config.batch_size),
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        device=accelerator.device,
    )

    # Accelerate: wrapping, mixed precision, checkpoints. The loader's state is a few integers.
    optimizer = torch.optim.AdamW(setup.step.parameters(), lr=1e-3, weight_decay=0.05)
    step, optimizer = accelerator.prepare(setup.step.train(), optimizer)
    accelerator.register_for_checkpointing(loader)
    state = Path(out) / "accelerate"
    if state.is_dir():
        accelerator.load_state(str(state))
    for epoch in range(loader.state_dict()["epoch"], config.epochs):
        for batch in loader:
            losses, _logits = step(batch.images, batch.labels, batch.targets)
            optimizer.zero_grad()
            accelerator.backward(losses["loss"])
            optimizer.step()
        accelerator.print(f"epoch {epoch}:", ", ".join(f"{name} {each.item():.4f}" for name, each in losses.items()))
        accelerator.save_state(str(state))

    if accelerator.is_main_process:
        kdcache.save_student(Path(out), setup, cache)
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
