from pathlib import Path
from typing import Any

import pytest

from kdcache.cache import open_cache
from kdcache.images import open_source
from kdcache.planning.rehearsal import rehearse
from kdcache.planning.sizes import plan_bytes
from kdcache.teacher.extract import extract
from kdcache.teacher.source_plan import plan_source
from tests.conftest import tiny_extract
from tests.teacher.test_space import written


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"statistics": "light", "images": "reference"},
        {"pixels": "raw", "taps": ("head/logits",)},
        {"pixels": "jpeg", "taps": ("blocks.-1/prefix:fp32", "head/logits:topk=3")},
    ],
    ids=["usual", "light, reference", "raw", "jpeg"],
)
def test_bytes_are_those_of_the_cache_that_follows(tmp_path: Path, changes: dict[str, Any]) -> None:
    """From caches of one shard and a few images to one of three shards and ten times as many: within one percent."""
    config = tiny_extract(
        tmp_path / "c", **{"taps": ("blocks.-1/patch", "head/logits"), "limit": 300, "shard_samples": 128, **changes}
    )
    assert config.data is not None
    plan = plan_source(open_source(config.data), config)
    sizes = [plan.source.size_bytes(position) if config.images == "embed" else 0 for position in plan.positions]
    done = rehearse(config, tmp_path, most_images=30, seconds=9, on_note=lambda _: None)
    assert len(done) == 2
    copied = [sum(sizes[: each.num_images]) for each in done]
    found = plan_bytes(done, copied, num_images=300, planned_image_bytes=sum(sizes), shard_samples=128)
    extract(config)
    cache = open_cache(tmp_path / "c")
    held = {
        f"{group.name}/{facts.name}": group.manifest.part_bytes(facts.name)
        for group in cache.groups.values()
        for facts in group.manifest.fingerprint.columns
    }
    assert found.columns == pytest.approx(held, rel=0.01)
    assert found.total == pytest.approx(written(tmp_path / "c"), rel=0.01)
    assert (found.pixels > 0) == (config.pixels != "replay")


def test_one_small_cache_alone_gives_its_own_bytes(tmp_path: Path) -> None:
    """Three images are all there are: what they took is what they will take."""
    done = rehearse(tiny_extract(tmp_path), tmp_path, most_images=3, seconds=9, on_note=lambda _: None)
    found = plan_bytes(done, [225], num_images=3, planned_image_bytes=225, shard_samples=8)
    assert len(done) == 1
    assert found.total == pytest.approx(done[0].file_bytes, abs=1)
