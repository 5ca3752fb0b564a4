"""Small files that let other programs find the shards: the index formats of timm, wids and NVIDIA DALI."""

from pathlib import Path

from kdcache.cache.cache import Cache
from kdcache.cache.manifest import Manifest
from kdcache.cache.paths import SAMPLES, CachePaths
from kdcache.cache.record import TAR_BLOCK_BYTES, RecordLayout
from kdcache.durable import make_folder, write_file
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


def write_dali_indexes(cache: Cache, column: str, folder: Path) -> list[Path]:
    """Write what ``fn.readers.webdataset`` of NVIDIA DALI takes as ``index_paths``, without reading the tars.

    DALI sees a sample per image, with a component ``v00.npy``, ``v01.npy``, … per view; each is a whole npy file.

    Args:
        cache: The cache.
        column: Name of a column.
        folder: Where ``<shard>.idx`` are written, one a shard.

    Returns: the files, in the order of the shards.
    """
    layout = cache.manifest.fingerprint.column(column).layout()
    num_views = cache.manifest.fingerprint.views.num_views
    make_folder(folder)
    written: list[Path] = []
    for shard in cache.manifest.shards:
        names = cache.member_names(cache.index(shard, with_columns=False))
        lines = [f"v1.2 {shard.num_samples}"]
        for first in range(0, len(names), num_views):
            records = range(first, first + num_views)
            lines.append(" ".join(_dali_component(layout, record, names[record]) for record in records))
        written.append(folder / f"{shard.name}.idx")
        write_file(written[-1], "".join(f"{line}\n" for line in lines).encode())
    return written


def _dali_component(layout: RecordLayout, record: int, name: str) -> str:
    extension = name.rpartition("/")[2].partition(".")[2]
    return f"{extension} {record * layout.stride_bytes + TAR_BLOCK_BYTES} {layout.member_bytes} {name}"
