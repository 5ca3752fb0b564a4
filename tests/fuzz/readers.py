"""Every reader of bytes that somebody else may have written, and a small real file for each of its forms."""

import gzip
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from PIL import Image

from kdcache.cache.base import BaseFingerprint, BaseManifest
from kdcache.cache.cache import open_cache
from kdcache.cache.group import GroupManifest
from kdcache.cache.group_index import read_group_index
from kdcache.cache.index import read_index
from kdcache.cache.job import read_ledger
from kdcache.cache.manifest import parse_manifest, read_fingerprint
from kdcache.cache.paths import CachePaths
from kdcache.cache.sample import Sample
from kdcache.cache.shard import StridedShard, read_meta
from kdcache.cache.tar import read_members
from kdcache.cache.writer import BadSample, ledger_bytes
from kdcache.convert.features import open_features
from kdcache.convert.from_hdf5 import from_hdf5
from kdcache.convert.to_hdf5 import to_hdf5
from kdcache.durable import sha256_file
from kdcache.images import open_source
from kdcache.images.decode import decode_image, decode_pixels
from kdcache.models.weights_file import read_weights_file
from kdcache.strict_json import dump_sealed, load_sealed
from kdcache.train.checkpoint import read_checkpoint
from kdcache.train.folder import load_saved, read_finished
from kdcache.train.metrics import read_metrics
from tests.conftest import GROUP

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Reader:
    """A reader and what it is given.

    Args:
        name: Of the file that it reads.
        read: From the path of a changed file.
        seeds: Whole files that it reads without complaint.
        bound_factor: Bytes that may be in memory at once for each byte of the file, besides a fixed amount.
    """

    name: str
    read: Read
    seeds: list[bytes] = field(default_factory=list)
    bound_factor: int = 40


def readers(root: Path, run: Path, folder: Path) -> dict[str, Reader]:
    """All readers.

    Args:
        root: A cache.
        run: A finished run.
        folder: For what has to lie beside a file.
    """
    return {**_of_caches(root), **_of_runs(run), **_of_images(), **_of_features(), **_of_hdf5(root, folder)}


def _of_caches(root: Path) -> dict[str, Reader]:
    cache = open_cache(root)
    shard, column = cache.manifest.shards[0], cache.group(GROUP).columns[0]
    strided = cache.strided(column, shard)
    names = cache.member_names(cache.index(shard))
    group = CachePaths(root).group(GROUP)
    samples, of_column = cache.path("samples", shard).read_bytes(), strided.path.read_bytes()
    fields = cache.manifest.fingerprint.views.fields
    body = next(member for member in read_members(cache.path("samples", shard)) if member.name.endswith(".json"))
    sample = samples[body.offset : body.offset + body.size_bytes]
    bad = [BadSample(position=1, source_key="a/b.jpg", key="a_b", reason="empty file")]

    def tar(path: Path) -> object:
        members = list(read_members(path))
        return [path.read_bytes()[each.offset : each.offset + each.size_bytes] for each in members], read_meta(path)

    def npy_headers(path: Path) -> object:
        found = StridedShard(path, strided.layout, strided.num_records, strided.meta)
        found.check_headers(names)
        return found.fields()

    return {
        "tar headers": Reader("s.tar", tar, [samples, of_column]),
        "npy headers": Reader("c.tar", npy_headers, [of_column]),
        "index": Reader("i.h5", read_index, [cache.path("index", shard).read_bytes()]),
        "group index": Reader("g.h5", read_group_index, [cache.path(f"{GROUP}/index", shard).read_bytes()]),
        "manifest": Reader(
            "manifest.json",
            lambda path: parse_manifest(path.read_bytes(), BaseManifest, where=str(path)),
            [CachePaths(root).manifest.read_bytes()],
        ),
        "group manifest": Reader(
            "manifest.json",
            lambda path: parse_manifest(path.read_bytes(), GroupManifest, where=str(path)),
            [group.manifest.read_bytes()],
        ),
        "fingerprint": Reader(
            "f.json",
            lambda path: read_fingerprint(path.read_bytes(), BaseFingerprint, where=str(path)),
            [read_meta(cache.path("samples", shard))],
        ),
        "ledger": Reader("l.json", read_ledger, [ledger_bytes(bad)]),
        "sample": Reader(
            "x.json", lambda path: Sample.from_json("x", path.read_bytes(), fields, where=str(path)), [sample]
        ),
    }


def _of_runs(run: Path) -> dict[str, Reader]:
    from kdcache.train.folder import load_student

    student = load_student(run)[0]

    def checkpoint(path: Path) -> object:
        # Whoever can write a file can write its hash.
        path.with_suffix(".sha256").write_text(sha256_file(path))
        return read_checkpoint(path)

    def sealed(path: Path) -> object:
        return load_sealed(path.read_bytes(), where=str(path))

    buffer = io.BytesIO()
    torch.save({"a": torch.ones(3), "b": [1, "x"]}, buffer)
    return {
        "checkpoint": Reader("step-000000001.pt", checkpoint, [next(run.glob("checkpoints/*.pt")).read_bytes()]),
        "student": Reader(
            "s.safetensors", lambda path: load_saved(student, path), [(run / "student.safetensors").read_bytes()]
        ),
        "weights": Reader(
            "w.pth", read_weights_file, [buffer.getvalue(), safetensors.numpy.save({"a": np.ones(3, np.float32)})]
        ),
        "sealed facts": Reader("s.json", sealed, [(run / "student.json").read_bytes(), dump_sealed({"a": "x"})]),
        "metrics": Reader(
            "metrics.jsonl", lambda path: read_metrics(path.parent, "step"), [(run / "metrics.jsonl").read_bytes()]
        ),
        "summary": Reader(
            "summary.json", lambda path: read_finished(path.parent, 1), [(run / "summary.json").read_bytes()]
        ),
    }


def _images() -> list[bytes]:
    random = np.random.default_rng(0)
    pixels = Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    found: list[bytes] = []
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP"):
        buffer = io.BytesIO()
        pixels.save(buffer, kind)
        found.append(buffer.getvalue())
    return found


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _of_images() -> dict[str, Reader]:
    images = _images()
    # Up to MAX_PIXELS an image may be as large as its header says.
    largest = 10**9

    def decoded(path: Path) -> object:
        data = path.read_bytes()
        return decode_image(data), decode_pixels(data)

    def source(path: Path) -> object:
        found = open_source(str(path))
        return [found.read(position) for position in range(len(found.images))]

    packed = _tar({"a.jpg": images[0], "a.cls": b"0", "b.png": images[1], "b.json": b'{"label": 1}'})
    return {
        "image": Reader("i.jpg", decoded, images, largest),
        "source tar": Reader("s.tar", source, [packed]),
        "source tar, compressed": Reader("s.tar.gz", source, [gzip.compress(packed, mtime=0)], 400),
    }


def _of_features() -> dict[str, Reader]:
    array = io.BytesIO()
    np.save(array, np.ones((3, 5), np.float16))
    tensors = safetensors.numpy.save({"a": np.ones((3, 5), np.float16)})

    def features(path: Path) -> object:
        found = open_features(path if path.suffix == ".tar" else path.parent)
        return [found.load(key, None) for key in found.names]

    return {
        "npy": Reader("f.npy", features, [array.getvalue()]),
        "feature tar": Reader("f.tar", features, [_tar({"a.npy": array.getvalue(), "b.safetensors": tensors})]),
    }


def _of_hdf5(root: Path, folder: Path) -> dict[str, Reader]:
    to_hdf5(root, folder / "whole.h5")
    data = (folder / "whole.h5").read_bytes()
    return {"cache in one HDF5 file": Reader("c.h5", lambda path: from_hdf5(path, path.parent / "cache"), [data], 4)}
