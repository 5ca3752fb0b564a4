import errno
import os
import resource
from pathlib import Path

import pytest

from kdcache.errors import CorruptCacheError, DiskFullError, KdcacheError, NotWritableError, Remedy, StorageError
from kdcache.storage import open_regular, read_regular, reading_errors, storage_errors


def test_an_ordinary_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"bytes")
    assert read_regular(tmp_path / "x") == b"bytes"
    with open_regular(tmp_path / "x") as file:
        assert file.read(2) == b"by"


def test_a_pipe_or_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(CorruptCacheError, match=rf"{name}: is not an ordinary file"):
            read_regular(tmp_path / name)


def test_a_missing_file_and_a_full_table_have_their_own_remedies(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot open .*x: No such file or directory") as caught:
        read_regular(tmp_path / "x")
    assert caught.value.remedy is Remedy.RESTORE_FILE
    (tmp_path / "x").touch()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(tmp_path / "x", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot open .*x: Too many open files") as caught:
            read_regular(tmp_path / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caught.value.remedy is Remedy.ALLOW_MORE_FILES


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "ENOMEM", "EMFILE", "EBADF"])
def test_every_refusal_names_path_operation_and_remedy(tmp_path: Path, name: str) -> None:
    for boundary in (storage_errors, reading_errors):
        with (
            pytest.raises(StorageError, match=r"cannot link .*x: what the system says") as caught,
            boundary(tmp_path / "x", "link"),
        ):
            raise OSError(getattr(errno, name), "what the system says")
        assert caught.value.remedy is not None


@pytest.mark.parametrize(
    ("name", "kind"), [("ENOSPC", DiskFullError), ("EDQUOT", DiskFullError), ("EROFS", NotWritableError)]
)
def test_writing_has_its_own_errors(tmp_path: Path, name: str, kind: type[KdcacheError]) -> None:
    with pytest.raises(kind, match="cannot write"), storage_errors(tmp_path / "x", "write"):
        raise OSError(getattr(errno, name), "refused")
