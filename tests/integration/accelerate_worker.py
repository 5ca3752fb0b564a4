"""Run on each rank by test_accelerate.py: what Accelerate's `prepare` makes of our loaders, as JSON lines."""

import json
from pathlib import Path

from accelerate import Accelerator
from torch.utils.data import DataLoader

from kdcache.cache import open_cache
from kdcache.stream.config import StreamConfig
from kdcache.stream.dataset import CacheDataset
from kdcache.stream.loader import CacheLoader


def main(root: str, out: str) -> None:
    """Stream half an epoch, save, stream the rest; load in a fresh loader and stream the rest again."""
    cache, folder = open_cache(root), Path(out)
    columns = cache.columns[:1]
    accelerator = Accelerator(cpu=True)
    ranks = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    config = StreamConfig(batch_size=4, num_threads=1)

    def fresh() -> CacheLoader:
        loader = CacheLoader(cache, columns, config, **ranks, device=accelerator.device)
        return accelerator.prepare(loader)

    loader = fresh()
    accelerator.register_for_checkpointing(loader)
    seen = []
    for step, batch in enumerate(loader):
        seen.append(batch.samples.tolist())
        if step == 1:
            accelerator.save_state(str(folder))
    resumed = fresh()
    accelerator._custom_objects.clear()
    accelerator.register_for_checkpointing(resumed)
    accelerator.wait_for_everyone()  # only the main process writes the loader's state
    accelerator.load_state(str(folder))
    rest = [batch.samples.tolist() for batch in resumed]
    items = DataLoader(CacheDataset(cache, columns), batch_size=4)
    views = [list(zip(item["key"], item["view"].tolist(), strict=True)) for item in accelerator.prepare(items)]
    result = {"rank": accelerator.process_index, "seen": seen, "rest": rest, "views": views}
    accelerator.wait_for_everyone()
    (folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(result))
    accelerator.end_training()
