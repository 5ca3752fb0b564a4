import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache.tar import END_OF_TAR, member_header, member_headers, padding, read_members
from kdcache.errors import CorruptCacheError, Remedy


def make_tar(path: Path, members: dict[str, bytes]) -> bytes:
    data = b"".join(member_header(name, len(body)) + body + padding(len(body)) for name, body in members.items())
    path.write_bytes(data + END_OF_TAR)
    return data + END_OF_TAR


MEMBERS = {"a.json": b"{}\n", "folder/b.v00.npy": b"x" * 700, "empty": b"", "x" * 100: b"y" * 512}


def test_python_and_gnu_tar_read_it(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    make_tar(path, MEMBERS)
    with tarfile.open(path, "r:") as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == MEMBERS
        assert {(member.mode, member.mtime, member.uid) for member in tar.getmembers()} == {(0o444, 0, 0)}
    listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == list(MEMBERS)
    assert listed.stderr == ""


def test_headers_equal_those_of_tarfile() -> None:
    info = tarfile.TarInfo("folder/b.npy")
    info.size, info.mode, info.mtime = 12345, 0o444, 0
    theirs = info.tobuf(tarfile.USTAR_FORMAT)
    assert member_header("folder/b.npy", 12345) == theirs


def test_members_are_found_where_they_are(tmp_path: Path) -> None:
    data = make_tar(tmp_path / "t", MEMBERS)
    found = {each.name: data[each.offset : each.offset + each.size_bytes] for each in read_members(tmp_path / "t")}
    assert found == MEMBERS


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    """A cut at a block boundary looks like a shorter tar to most readers."""
    data = make_tar(tmp_path / "t", MEMBERS)
    for size in [*range(0, len(data), 512), 1, 700, len(data) - 1]:
        (tmp_path / "t").write_bytes(data[:size])
        with pytest.raises(CorruptCacheError) as caught:
            list(read_members(tmp_path / "t"))
        assert caught.value.remedy is Remedy.REPAIR


@pytest.mark.parametrize("position", [0, 30, 105, 124, 148, 156, 257, 300, 400, 511])
def test_a_changed_header_is_noticed(tmp_path: Path, position: int) -> None:
    data = bytearray(make_tar(tmp_path / "t", MEMBERS))
    data[position] ^= 2
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(CorruptCacheError, match="byte 0"):
        list(read_members(tmp_path / "t"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE]
)
def test_only_ordinary_files_are_ours(tmp_path: Path, kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("link")
        info.type, info.linkname, info.mode = kind, "/etc/passwd", 0o444
        tar.addfile(info)
    (tmp_path / "t").write_bytes(buffer.getvalue())
    with pytest.raises(CorruptCacheError):
        list(read_members(tmp_path / "t"))


def test_bytes_behind_the_end_are_noticed(tmp_path: Path) -> None:
    data = make_tar(tmp_path / "t", MEMBERS)
    (tmp_path / "t").write_bytes(data + b"\0" * 512)
    with pytest.raises(CorruptCacheError, match="behind the end"):
        list(read_members(tmp_path / "t"))


@pytest.mark.parametrize(("name", "size"), [("", 1), ("x" * 101, 1), ("a", 8**11), ("a", -1), ("ü", 1)])
def test_what_does_not_fit_a_header(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"tar member|ascii"):
        member_header(name, size)


@pytest.mark.parametrize("size_bytes", [0, 511, 8**11 - 1])
def test_many_headers_at_once_are_those_one_by_one(size_bytes: int) -> None:
    names = ["a", "folder/b.v00.npy", "x" * 100, "~" * 57]
    wanted = [np.frombuffer(member_header(name, size_bytes), np.uint8) for name in names]
    np.testing.assert_array_equal(member_headers(names, size_bytes), wanted)
    assert member_headers([], size_bytes).shape == (0, 512)


def test_many_headers_refuse_what_one_refuses() -> None:
    with pytest.raises(ValueError, match="1 to 100 ASCII bytes"):
        member_headers(["a", "x" * 101], 5)
