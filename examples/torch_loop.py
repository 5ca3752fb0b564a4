"""Train a student from a cache in a loop of your own: python examples/torch_loop.py CACHE OUT."""

import sys
from pathlib import Path

import torch

import kdcache
from kdcache.methods.feature import feature

# Any timm student, and any method or list of terms; what they need of the cache is found by `prepare`.
CONFIG = kdcache.RunConfig(student="deit_tiny_patch16_224", method=feature(), epochs=2, batch_size=64)


def main(cache_folder: str, out: str, config: kdcache.RunConfig = CONFIG) -> None:
    """Train, then save what `kdcache eval` and `kdcache export` read."""
    device = "cuda" if torch.cuda.is_available() else "cpu"

    # kdcache: the student with its terms as one module, and a stream of the columns that they read.
    cache = kdcache.open_cache(cache_folder)
    setup = kdcache.prepare(config, cache)
    loader = kdcache.CacheLoader(
        cache, setup.columns, kdcache.StreamConfig(batch_size=config.batch_size), device=device
    )

    # Yours: optimizer, schedule, precision, logging.
    step = setup.step.to(device).train()
    optimizer = torch.optim.AdamW(step.parameters(), lr=1e-3, weight_decay=0.05)
    for epoch in range(config.epochs):
        for batch in loader:
            losses, _logits = step(batch.images, batch.labels, batch.targets)
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
        print(f"epoch {epoch}:", ", ".join(f"{name} {value.item():.4f}" for name, value in losses.items()))

    kdcache.save_student(Path(out), setup, cache)


if __name__ == "__main__":
    main(*sys.argv[1:])
