import shutil
from pathlib import Path

import pytest

from kdcache.cache import open_cache
from kdcache.cache.job import read_ledger
from kdcache.cache.rebuild_ledgers import LOST, is_lost
from kdcache.cli.main import main
from kdcache.errors import CorruptCacheError, Remedy
from kdcache.teacher.extract import extract
from tests.cache.support import all_faults, overwrite, rebuild_all
from tests.conftest import file_hashes, tiny_extract


@pytest.fixture(scope="module")
def bad_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images in three shards; one of the first and one of the last shard cannot be used. No test may change it."""
    import numpy as np
    from PIL import Image

    folder, random = tmp_path_factory.mktemp("bad"), np.random.default_rng(1)
    for number in range(6):
        path = folder / "photos" / f"{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 20, 3), np.uint8)).save(path)
    for number in (2, 5):
        (folder / "photos" / f"{number % 2}" / f"{number}.png").write_bytes(b"")
    config = tiny_extract(folder / "c", data=str(folder / "photos"), max_bad=0.5, order="source", shard_samples=2)
    extract(config)
    counts = [shard.num_bad for shard in open_cache(folder / "c").manifest.shards]
    assert sorted(counts) == [0, 1, 1]
    return folder / "c"


@pytest.fixture
def copy(bad_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bad_root, tmp_path / "copy"))


def ledgers(root: Path) -> tuple[list[Path], Path]:
    """Those that name a bad image, and the empty one."""
    paths = sorted((root / "ledger").iterdir())
    named = [path for path in paths if read_ledger(path)]
    return named, next(path for path in paths if path not in named)


def without(root: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in root.glob(pattern):
            path.unlink()


def test_a_rebuild_keeps_what_is_proven(copy: Path) -> None:
    before = file_hashes(copy)
    without(copy, "manifest.*", "*/manifest.*")
    rebuild_all(copy)
    assert file_hashes(copy) == before
    ledgers(copy)[1].unlink()
    rebuild_all(copy)
    assert file_hashes(copy) == before, "a shard with all its images has an empty one"
    without(copy, "manifest.*", "index/*")
    rebuild_all(copy)
    assert open_cache(copy).manifest.num_bad == 2, "proven by the keys of the plan"
    assert file_hashes(copy / "ledger") == {path.name: before[f"ledger/{path.name}"] for path in ledgers(copy)[0]} | {
        ledgers(copy)[1].name: before[f"ledger/{ledgers(copy)[1].name}"]
    }


@pytest.mark.parametrize("damage", ["missing", "garbage", "empty", "swapped", "other reason", "swapped without hashes"])
def test_what_cannot_be_made_again_is_refused_and_may_be_given_up(
    damage: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (first, second), empty = ledgers(copy)
    one, two = first.read_bytes(), second.read_bytes()
    if damage == "missing":
        first.unlink()
    elif damage.startswith("swapped"):
        overwrite(first, two)
        overwrite(second, one)
    else:
        overwrite(first, {"garbage": b"[", "empty": empty.read_bytes()}.get(damage, one.replace(b"empty", b"other")))
    if damage.endswith("without hashes"):
        without(copy, "manifest.*", "index/*")
    before = file_hashes(copy)
    with pytest.raises(CorruptCacheError, match="1 planned images are not in the tar of its shard") as caught:
        rebuild_all(copy)
    assert caught.value.remedy is Remedy.ACCEPT_LOSS
    assert file_hashes(copy) == before, "nothing was changed"
    assert main(["verify", str(copy), "--rebuild"]) == 1
    assert "`kdcache verify --rebuild --accept-loss`" in capsys.readouterr().err

    assert main(["verify", str(copy), "--rebuild", "--accept-loss"]) == 0
    assert f"{first}: lost; it counts the bad images" in capsys.readouterr().out
    assert open_cache(copy).manifest.num_bad == 2
    assert [each.reason for each in read_ledger(first)] == [LOST]
    assert all_faults(copy) == []
    assert is_lost(read_ledger(first))
    assert not is_lost(read_ledger(empty))
    rebuild_all(copy)
    assert all_faults(copy) == [], "a ledger that stands for a lost one is as good as any"


def test_accepting_goes_with_rebuilding(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(copy), "--accept-loss"]) == 2
    assert "--accept-loss goes with --rebuild" in capsys.readouterr().err
