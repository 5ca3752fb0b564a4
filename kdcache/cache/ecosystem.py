"""Small files beside the manifest that let other programs find the shards: timm's and wids' own index formats."""

from kdcache.cache.manifest import Manifest
from kdcache.cache.paths import SAMPLES, CachePaths
from kdcache.durable import write_file
from kdcache.strict_json import dump_json


def write_ecosystem_files(paths: CachePaths, manifest: Manifest) -> None:
    """Write ``_info.json`` (timm's WebDataset reader) and one ``wids-<part>.json`` for the samples and each column."""
    split = manifest.fingerprint.split
    names = {shard.name: str(paths.shard(SAMPLES, shard.name).relative_to(paths.root)) for shard in manifest.shards}
    info = {
        "splits": {
            split: {
                "name": split,
                "filenames": list(names.values()),
                "shard_lengths": [shard.num_samples for shard in manifest.shards],
                "num_samples": manifest.num_samples,
                # Our labels are a field of <key>.json.
                "alt_label": "label",
            }
        }
    }
    write_file(paths.root / "_info.json", dump_json(info))
    for part in (SAMPLES, *(column.name for column in manifest.fingerprint.columns)):
        shards = [
            {
                "url": str(paths.shard(part, shard.name).relative_to(paths.root)),
                "nsamples": shard.num_samples,
                "filesize": shard.files[part].size_bytes,
            }
            for shard in manifest.shards
        ]
        index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": part, "shardlist": shards}
        write_file(paths.root / f"wids-{part}.json", dump_json(index))
