import os
from pathlib import Path

import pytest

from kdcache.errors import CorruptCacheError, SourceError
from kdcache.stream.foreign import ForeignLoader
from kdcache.stream.loader import StreamConfig
from kdcache.stream.tars import open_tars
from tests.stream.test_contract import write_foreign
from tests.stream.ways import WAYS


def test_pixels_cannot_be_asked_for(tmp_path: Path) -> None:
    tars = open_tars(write_foreign(tmp_path), ["feat.npy"])
    with pytest.raises(ValueError, match="images must be none, got 'pixels'"):
        ForeignLoader(tars, StreamConfig(batch_size=4))


def test_tars_that_change_between_counting_and_reading(tmp_path: Path) -> None:
    tars = open_tars(write_foreign(tmp_path), ["feat.npy"])
    os.truncate(tars.paths[3], 4096)
    with pytest.raises(SourceError, match=r"foreign-3.tar: had \d+ bytes when its samples were counted"):
        list(ForeignLoader(tars, StreamConfig(batch_size=4, images="none")))


@pytest.mark.parametrize("access", WAYS)
def test_tars_that_shrink_while_they_are_read(tmp_path: Path, access: str) -> None:
    tars = open_tars(write_foreign(tmp_path), ["feat.npy"])
    loader = ForeignLoader(tars, StreamConfig(batch_size=4, images="none", access=access))  # type: ignore[arg-type]
    list(loader)
    os.truncate(tars.paths[3], 4096)
    with pytest.raises(CorruptCacheError, match=r"foreign-3.tar: .*became shorter"):
        list(loader)
