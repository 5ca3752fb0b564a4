"""Every step of a repair or rebuild is refused once by the operating system: an error of ours, and once more goes."""

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kdcache.cache import open_cache
from kdcache.errors import KdcacheError
from kdcache.teacher.extract import extract
from tests.cache.support import all_faults, rebuild_all
from tests.cache.test_repair import set_aside
from tests.conftest import GROUP, flip_bit, tiny_extract

# What Python announces in front of a system call, and can be refused there.
_EVENTS = (
    "open",
    "os.remove",
    "os.rename",
    "os.link",
    "os.scandir",
    "os.listdir",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
)


class _Fault:
    """Counts the steps below a folder and refuses one of them; a hook cannot be taken away, so there is one."""

    def __init__(self) -> None:
        self.root, self.at, self.seen = "", 0, 0
        self.code = errno.EIO
        self._is_hooked = False

    @contextmanager
    def injected(self, root: Path, at: int, code: int) -> Iterator[None]:
        if not self._is_hooked:
            sys.addaudithook(self._hook)
            self._is_hooked = True
        self.root, self.at, self.seen, self.code = str(root), at, 0, code
        try:
            yield
        finally:
            self.root = ""

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.root or event not in _EVENTS or not str(arguments[0]).startswith(self.root):
            return
        self.seen += 1
        if self.seen == self.at:
            raise OSError(self.code, os.strerror(self.code), str(arguments[0]))


FAULT = _Fault()


def repair_base(root: Path) -> None:
    set_aside(root, "", ["train-000000"])


def repair_group(root: Path) -> None:
    # Or it says why it cannot be used.
    open_cache(root).group(GROUP)
    set_aside(root, GROUP, ["train-000000"])


@pytest.fixture(scope="module")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("caches") / "small"
    extract(small(root))
    return root


def small(root: Path) -> Any:
    return tiny_extract(root, limit=3, shard_samples=3, views=1, taps=("blocks.-1/patch:fp16",))


@pytest.mark.parametrize("work", [rebuild_all, repair_base, repair_group])
@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.ESTALE], ids=errno.errorcode.get)
@pytest.mark.slow
def test_no_refusal_is_a_traceback_and_the_same_again_goes(
    small_root: Path, tmp_path: Path, work: Callable[[Path], None], code: int
) -> None:
    whole = Path(shutil.copytree(small_root, tmp_path / "whole"))
    with FAULT.injected(whole, 0, code):
        work(whole)
        total = FAULT.seen
    assert total > 5
    refused = 0
    for at in range(1, total + 1, max(1, total // (30 if code == errno.EIO else 4))):
        copy = Path(shutil.copytree(small_root, tmp_path / str(at)))
        try:
            with FAULT.injected(copy, at, code):
                work(copy)
        except KdcacheError as error:
            refused += 1
            assert str(copy) in str(error)
        try:
            work(copy)
        except KdcacheError:
            # A repair withdraws the manifest before it moves shards.
            assert work is not rebuild_all
            assert not (copy / "manifest.json").is_file() or not (copy / GROUP / "manifest.json").is_file()
        if work is rebuild_all:
            # What a living process has left is removed by the next one.
            assert [fault for fault in all_faults(copy) if not fault.part.endswith(".tmp")] == []
        shutil.rmtree(copy)
    assert refused > 2


def test_a_folder_in_the_place_of_a_file_is_named(small_root: Path, tmp_path: Path) -> None:
    """A real refusal: neither removed nor replaced by a file."""
    copy = Path(shutil.copytree(small_root, tmp_path / "copy"))
    flip_bit(copy / GROUP / "blocks-1-patch-fp16" / "train-000000.tar", 3000)
    (copy / GROUP / "job" / "damaged" / "index" / "train-000000.h5" / "x").mkdir(parents=True)
    with pytest.raises(KdcacheError, match=r"cannot move aside .*index/train-000000.h5: .*directory"):
        repair_group(copy)
