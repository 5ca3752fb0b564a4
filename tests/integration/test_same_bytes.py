"""The same plan gives the same bytes: in two processes, and in a run that goes on where a group was cut off."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdcache.cache import open_cache
from kdcache.cli.main import main
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.extract import extract
from tests.cli.support import extract_words
from tests.conftest import GROUP, SECOND_KWARGS, TEACHER, file_hashes, tiny_extract

TAPS = ("blocks.-1/patch:int8", "head/logits")
PROGRAM = """
import json, sys
from kdcache.cli.main import main
for words in json.loads(sys.argv[1]):
    if main(words):
        sys.exit(1)
"""


def passes(root: Path) -> list[list[str]]:
    """A pass with raw pixels, and a second teacher added."""
    kwargs = [f"{name}={value}" for name, value in SECOND_KWARGS.items()]
    first = extract_words(root, "--pixels", "raw", "--threads", "2", "--cpu-threads", "1")
    added = ["extract", "--add", "--group", "wide", "--out", str(root), "--teacher", TEACHER]
    added += ["--teacher-weights", "random", "--teacher-kwargs", *kwargs, "--threads", "1", "--cpu-threads", "1"]
    return [first, added]


@pytest.mark.slow
def test_two_processes_write_the_same_files(tmp_path: Path) -> None:
    """This one, and a Python of its own with other hashes of words."""
    assert [main(words) for words in passes(tmp_path / "1")] == [0, 0]
    number = next(number for number in (1, 2) if str(number) != os.environ.get("PYTHONHASHSEED"))
    command = [sys.executable, "-c", PROGRAM, json.dumps(passes(tmp_path / "2"))]
    env = {**os.environ, "PYTHONHASHSEED": str(number)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert result.returncode == 0, result.stderr
    one, two = (file_hashes(tmp_path / str(number)) for number in (1, 2))
    assert one == two
    assert {name.split("/")[0] for name in one if name.endswith(".h5")} == {"index", GROUP, "wide", "pixels"}


class TestAGroupThatWasCutOff:
    """A shard whose images are committed and whose group is not, with an unusable image in it."""

    @pytest.fixture
    def config(self, photos: Path, tmp_path: Path) -> ExtractConfig:
        (photos / "cat" / "1.JPEG").write_bytes((photos / "cat" / "1.JPEG").read_bytes()[:40])
        return tiny_extract(
            tmp_path / "c", data=str(photos), limit=None, taps=TAPS, shard_samples=3, max_bad=0.5, pixels="raw"
        )

    @pytest.fixture
    def whole(self, config: ExtractConfig) -> dict[str, str]:
        extract(config)
        return file_hashes(config.out)

    def damaged_shard(self, root: Path) -> str:
        [shard] = [shard for shard in open_cache(root).manifest.shards if shard.num_bad]
        return shard.name

    @pytest.mark.parametrize("groups", [(GROUP,), ("pixels",), (GROUP, "pixels")])
    def test_a_rerun_ends_with_the_same_bytes(
        self, config: ExtractConfig, whole: dict[str, str], groups: tuple[str, ...]
    ) -> None:
        name = self.damaged_shard(config.out)
        for group in groups:
            (config.out / group / "index" / f"{name}.h5").unlink()
            (config.out / group / "manifest.json").unlink()
        report = extract(config)
        assert (report.num_shards, report.num_skipped) == (1, 1)
        assert report.base is not None
        assert report.base.num_bad == 1
        assert file_hashes(config.out) == whole
        assert main(["verify", str(config.out)]) == 0

    def test_an_image_that_was_bad_stays_out(
        self, config: ExtractConfig, whole: dict[str, str], photos: Path, tmp_path: Path
    ) -> None:
        """Restored meanwhile: the base does not have it, so a group must not."""
        name = self.damaged_shard(config.out)
        (config.out / GROUP / "index" / f"{name}.h5").unlink()
        (photos / "cat" / "1.JPEG").write_bytes((photos / "cat" / "3.webp").read_bytes())
        extract(config)
        assert file_hashes(config.out) == whole

    def test_and_nothing_is_written_of_an_image_that_has_changed(
        self, config: ExtractConfig, whole: dict[str, str], photos: Path
    ) -> None:
        from kdcache.errors import CacheMismatchError

        name = self.damaged_shard(config.out)
        index = config.out / GROUP / "index" / f"{name}.h5"
        index.unlink()
        cache = open_cache(config.out)
        shard = next(shard for shard in cache.manifest.shards if shard.name == name)
        sample = cache.index(shard).sample(0)
        changed = photos / sample.source_key
        others: list[Any] = [path for path in photos.rglob("*.png") if path != changed]
        changed.write_bytes(others[0].read_bytes())
        with pytest.raises(CacheMismatchError, match=f"key '{sample.key}': the image or its views are not those"):
            extract(config)
        assert not index.exists()
        del whole[index.relative_to(config.out).as_posix()]
        found = file_hashes(config.out)
        assert {each: found.get(each) for each in whole if f"{GROUP}/" not in each} == {
            each: value for each, value in whole.items() if f"{GROUP}/" not in each
        }
