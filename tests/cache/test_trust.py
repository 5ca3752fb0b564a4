from pathlib import Path

import pytest

from kdcache.cache.facts import FileFacts
from kdcache.cache.trust import contradictions, read_hashed, refuse_other_plan
from kdcache.errors import CorruptCacheError, Remedy, StorageError


def test_bytes_are_hashed_before_anybody_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"right")
    facts = FileFacts.read(path)
    assert read_hashed(path, facts) == b"right"
    path.write_bytes(b"wrong")
    with pytest.raises(CorruptCacheError, match=r"x\.h5: not the index the manifest names"):
        read_hashed(path, facts)
    path.unlink()
    with pytest.raises(StorageError, match=r"cannot open .*x\.h5"):
        read_hashed(path, facts)


def test_plans_must_agree(tmp_path: Path) -> None:
    refuse_other_plan(tmp_path, "ab" * 32, "ab" * 32)
    with pytest.raises(
        CorruptCacheError, match="written under the plan abababababab…, the manifest's is cdcdcdcdcdcd…"
    ):
        refuse_other_plan(tmp_path, "ab" * 32, "cd" * 32)


def test_a_contradiction_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(CorruptCacheError, match="x: 3 found, 4 wanted") as caught, contradictions(Path("x")):
        raise ValueError("3 found, 4 wanted")
    assert caught.value.remedy is Remedy.REBUILD
