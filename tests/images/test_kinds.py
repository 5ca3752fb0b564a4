"""Files under wrong names, and files that are no tars at all: each is refused as what it is, or read."""

import bz2
import gzip
import io
import lzma
import pickle
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from kdcache.errors import SourceError
from kdcache.images import open_source
from kdcache.images.kinds import packing_of
from tests.images.support import image_bytes, write_tar


def torch_bytes() -> bytes:
    file = io.BytesIO()
    torch.save({"images": torch.zeros(2)}, file)
    return file.getvalue()


def npz_bytes() -> bytes:
    file = io.BytesIO()
    np.savez(file, images=np.zeros(3))
    return file.getvalue()


def zip_bytes() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cat/a.jpg", b"x")
    return file.getvalue()


def hdf5_bytes() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        opened["images"] = np.zeros(3)
    return file.getvalue()


def sqlite_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("create table images (a)")
        return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.zip", zip_bytes, "a zip archive, not a tar; unpack it into a folder"),
        ("d.tar", zip_bytes, "a zip archive"),
        ("d.pt", torch_bytes, "a torch file"),
        ("d.pt", lambda: pickle.dumps([1], protocol=4), "a pickle or torch file"),
        ("d.npz", npz_bytes, r"a NumPy archive \(.npz\)"),
        ("d.npy", lambda: b"\x93NUMPY\x01\x00" + bytes(600), "a NumPy array"),
        ("d.h5", hdf5_bytes, "an HDF5 file, not a tar; write its images"),
        ("d.parquet", lambda: b"PAR1" + bytes(600) + b"PAR1", "a Parquet file"),
        ("d.arrow", lambda: b"ARROW1\0\0" + bytes(600), "an Arrow file"),
        ("d.db", sqlite_bytes, "an SQLite database"),
        ("d.7z", lambda: b"7z\xbc\xaf\x27\x1c" + bytes(600), "a 7z archive"),
        ("d.tar.zst", lambda: b"\x28\xb5\x2f\xfd" + bytes(600), r"compressed by zstd, not a tar; decompress it first"),
        ("d.tar", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        ("d.tar", lambda: b"<!DOCTYPE html><html><body>404", "a web page"),
        ("d.tar", lambda: b'{"error": "unauthorized"}', "a JSON file"),
        ("d.jpg", lambda: image_bytes(0), "a single image, not a tar; pass the folder that holds it"),
        ("d.csv", lambda: b"a.jpg,1\n", "this is a list"),
        ("d.tar", lambda: b"", "an empty file"),
        ("d.tar", lambda: bytes(range(1, 256)) * 8, "this is not a tar .it begins with b'.x01"),
    ],
)  # fmt: skip
def test_what_is_no_tar_is_named(tmp_path: Path, name: str, content: Callable[[], bytes], message: str) -> None:
    (tmp_path / name).write_bytes(content())
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["plain", "gz", "bz2", "xz"])
@pytest.mark.parametrize("name", ["d.tar", "d.tar.gz", "d.tgz", "d.tar.bz2", "d.TAR", "d.dat", "d"])
def test_tars_are_read_under_any_name(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    plain = write_tar(tmp_path / "plain", {"a.jpg": b"image a", "a.cls": b"3"}).read_bytes()
    (tmp_path / name).write_bytes(pack(plain))
    source = open_source(str(tmp_path / name))
    assert [(image.key, image.label) for image in source.images] == [("a", 3)]
    assert source.read(0) == b"image a"


def test_a_tar_without_members_is_a_tar(tmp_path: Path) -> None:
    assert packing_of(write_tar(tmp_path / "d.tar", {})) == ""
    with pytest.raises(SourceError, match="no images in these tars"):
        open_source(str(tmp_path / "d.tar"))


def test_a_folder_under_a_tars_name_is_a_folder(photos: Path, tmp_path: Path) -> None:
    assert open_source(str(photos.rename(tmp_path / "photos.tar"))).kind == "folder"
