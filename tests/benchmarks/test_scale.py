"""The benchmark of scale at toy size."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.scale_cache import COLUMN, GROUP, SimulatedCache, write_simulated
from benchmarks.scale_stages import STAGES
from kdcache.cache import open_cache
from kdcache.cache.facts import FileFacts


@pytest.mark.slow
def test_every_stage_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.json"
    words = ["--shards", "20", "--shard-samples", "1024", "--repeats", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "scale", *words])
    assert main() == 0
    result = json.loads(out.read_text())
    assert result["settings"]["images"] == 20 * 1024
    assert set(result["stages"]) == set(STAGES)
    assert all(stage["peak_bytes"] > 1 << 20 for stage in result["stages"].values())
    assert result["stages"]["open"]["seconds"]["open_s"]["repeats"] == 20
    assert result["stages"]["sharding"]["seconds"]["rank_s"]["repeats"] == 512
    assert result["manifest_bytes"]["base"] > 20 * 400
    assert "order: resume" in capsys.readouterr().out


def test_a_simulated_cache_is_one_that_kdcache_opens(tmp_path: Path) -> None:
    """Its group is usable, and every size in a manifest is that of the file."""
    write_simulated(SimulatedCache(num_shards=3, shard_samples=5), tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    assert (cache.manifest.num_samples, cache.unusable) == (15, {})
    for shard in cache.manifest.shards:
        for part in (*shard.files, f"{GROUP}/{COLUMN}", f"{GROUP}/index"):
            path = cache.check_size(part, shard)
            assert FileFacts.read(path).sha256 != cache.file(part, shard).sha256
