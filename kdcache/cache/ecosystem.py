"""Small files that let other programs find the shards: the index formats of timm, wids and NVIDIA DALI."""

from pathlib import Path

from kdcache.cache.base import BaseManifest
from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.cache.group import GroupManifest
from kdcache.cache.paths import SAMPLES, CachePaths
from kdcache.cache.record import TAR_BLOCK_BYTES, RecordLayout
from kdcache.durable import make_folder, write_changed, write_file
from kdcache.errors import UsageError
from kdcache.strict_json import dump_json


def write_base_files(paths: CachePaths, manifest: BaseManifest) -> None:
    """Write ``_info.json`` (timm's WebDataset reader) and ``wids-samples.json`` into the cache folder."""
    for name, data in base_files(paths, manifest).items():
        write_changed(paths.root / name, data)


def write_group_files(paths: CachePaths, manifest: GroupManifest, base: BaseManifest) -> None:
    """Write one ``wids-<column>.json`` for each column into the folder of a group."""
    for name, data in group_files(paths, manifest, base).items():
        write_changed(paths.root / name, data)


def base_files(paths: CachePaths, manifest: BaseManifest) -> dict[str, bytes]:
    """What `write_base_files` writes, by name: it follows from the manifest, so that it can be compared."""
    split = manifest.fingerprint.split
    info = {
        "splits": {
            split: {
                "name": split,
                "filenames": [_relative(paths, SAMPLES, shard.name) for shard in manifest.shards],
                "shard_lengths": [shard.num_samples for shard in manifest.shards],
                "num_samples": manifest.num_samples,
                # Our labels are a field of <key>.json.
                "alt_label": "label",
            }
        }
    }
    sizes = {shard.name: shard.files[SAMPLES].size_bytes for shard in manifest.shards}
    return {"_info.json": dump_json(info), **_wids(paths, SAMPLES, manifest, sizes)}


def group_files(paths: CachePaths, manifest: GroupManifest, base: BaseManifest) -> dict[str, bytes]:
    """What `write_group_files` writes, by name."""
    found: dict[str, bytes] = {}
    for column in manifest.fingerprint.columns:
        sizes = {shard.name: shard.files[column.name].size_bytes for shard in manifest.shards}
        found |= _wids(paths, column.name, base, sizes)
    return found


def write_dali_indexes(cache: Cache, column: Column, folder: Path) -> list[Path]:
    """Write what ``fn.readers.webdataset`` of NVIDIA DALI takes as ``index_paths``, without reading the tars.

    DALI sees a sample per image, with a component ``v00.npy``, ``v01.npy``, … per view; each is a whole npy file.

    Args:
        cache: The cache.
        column: A column of records of one size.
        folder: Where ``<shard>.idx`` are written, one a shard.

    Returns: the files, in the order of the shards.
    Raises: UsageError for a column of JPEG files.
    """
    if not column.stride_bytes:
        raise UsageError(f"column {column.name}: JPEG records differ in size; DALI reads the tars without an index")
    layout = column.layout()
    num_views = cache.num_views
    make_folder(folder)
    written: list[Path] = []
    for shard in cache.manifest.shards:
        names = cache.member_names(cache.index(shard))
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


def _wids(paths: CachePaths, part: str, base: BaseManifest, sizes: dict[str, int]) -> dict[str, bytes]:
    shards = [
        {"url": _relative(paths, part, shard.name), "nsamples": shard.num_samples, "filesize": sizes[shard.name]}
        for shard in base.shards
    ]
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": part, "shardlist": shards}
    return {f"wids-{part}.json": dump_json(index)}


def _relative(paths: CachePaths, part: str, name: str) -> str:
    return str(paths.shard(part, name).relative_to(paths.root))
