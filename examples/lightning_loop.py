"""Train a student from a cache under Lightning: python examples/lightning_loop.py CACHE OUT."""

import sys
from pathlib import Path
from typing import Any

import lightning
import torch

import kdcache
from kdcache.methods.feature import feature

CONFIG = kdcache.RunConfig(student="deit_tiny_patch16_224", method=feature(), epochs=2, batch_size=64)


class Distillation(lightning.LightningModule):
    """kdcache's step in Lightning's hooks."""

    def __init__(self, cache: kdcache.Cache, config: kdcache.RunConfig) -> None:
        super().__init__()
        self.cache, self.config = cache, config
        self.prepared = kdcache.prepare(config, cache)
        self.step = self.prepared.step  # a module, so that Lightning moves and wraps it

    def train_dataloader(self) -> kdcache.CacheLoader:
        """Batches of this process; Lightning moves them to its device and keeps the loader's state in checkpoints."""
        config = kdcache.StreamConfig(batch_size=self.config.batch_size)
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        return kdcache.CacheLoader(self.cache, self.prepared.columns, config, rank=rank, world_size=world_size)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """The loss of a batch."""
        losses, _logits = self.step(batch.images, batch.labels, batch.targets)
        self.log_dict(losses, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(batch))
        return losses["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Student and the terms' adapters."""
        return torch.optim.AdamW(self.step.parameters(), lr=1e-3, weight_decay=0.05)


def main(cache_folder: str, out: str, config: kdcache.RunConfig = CONFIG, **trainer_settings: Any) -> None:
    """Train, then save what `kdcache eval` and `kdcache export` read."""
    cache = kdcache.open_cache(cache_folder)
    module = Distillation(cache, config)
    trainer = lightning.Trainer(max_epochs=config.epochs, default_root_dir=out, **trainer_settings)
    trainer.fit(module)
    if trainer.is_global_zero:
        kdcache.save_student(Path(out), module.prepared, cache)


if __name__ == "__main__":
    main(*sys.argv[1:])
