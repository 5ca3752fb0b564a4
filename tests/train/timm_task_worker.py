"""Run on each rank by test_timm_task.py: some steps of a timm task, its state written by the first rank."""

import torch

import kdcache
from kdcache.distributed.env import worker_env
from kdcache.distributed.process_group import process_group
from kdcache.methods.feature import feature
from kdcache.train.timm_task import CachedDistillationTask
from tests.train.support import tiny_run


def main(root: str, out: str) -> None:
    """Train for an epoch; the ranks share every batch."""
    env, cache = worker_env(), kdcache.open_cache(root)
    # Gradients of the mean loss of two halves are those of the whole where every term is a mean over images.
    method = feature(teacher=("blocks.1/patch:fp16", "blocks.0/patch:fp32"), logit_weight=0.5)
    setup = kdcache.prepare(tiny_run("data.codec=fp16", method=method), cache)
    with process_group(env, torch.device("cpu")):
        task = CachedDistillationTask(setup.step, verbose=False)
        if env.world_size > 1:
            task.prepare_distributed()
        optimizer = torch.optim.SGD(task.trainable_module.parameters(), lr=0.1)
        config = kdcache.StreamConfig(batch_size=4, num_threads=1)
        for batch in kdcache.CacheLoader(cache, setup.columns, config, rank=env.rank, world_size=env.world_size):
            loss = task(batch.images, batch.labels, batch.targets)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if env.is_main:
            torch.save(task.get_checkpoint_state(), out)
