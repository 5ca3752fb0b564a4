from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import open_cache
from kdcache.cache.group_index import read_group_index
from kdcache.cache.paths import INDEX
from kdcache.durable import sha256_file
from kdcache.errors import BadRecordError
from kdcache.teacher.extract import extract
from kdcache.teacher.forward import Forward
from kdcache.teacher.model import Teacher
from tests.conftest import GROUP, tiny_extract


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode where the teacher runs, as on CUDA, and queue a batch ahead."""

    def made(teacher: Teacher | None, groups: object) -> Forward:
        forward = Forward(teacher, groups, encodes=True)
        forward._queued = 1
        return forward

    monkeypatch.setattr("kdcache.teacher.worker.Forward", made)


@pytest.mark.usefixtures("on_device")
def test_a_pass_that_encodes_on_the_device_writes_the_same_records(tiny_root: Path, tmp_path: Path) -> None:
    """The very tars; statistics to rounding. No shard lacks a batch that was queued when it ended."""
    extract(tiny_extract(tmp_path / "c"))
    there, here = open_cache(tmp_path / "c"), open_cache(tiny_root)
    assert [shard.files for shard in there.manifest.shards] == [shard.files for shard in here.manifest.shards]
    [ours, theirs] = (cache.groups[GROUP] for cache in (there, here))
    for column in ours.columns:
        for shard in ours.manifest.shards:
            name = column.facts.name
            tars = [group.paths.shard(name, shard.name) for group in (ours, theirs)]
            assert sha256_file(tars[0]) == sha256_file(tars[1]), name
            one, two = (
                read_group_index(group.paths.shard(INDEX, shard.name)).columns[name] for group in (ours, theirs)
            )
            np.testing.assert_array_equal(one.crc32, two.crc32)
            np.testing.assert_array_equal(one.singular_energies, two.singular_energies)
            scale = np.abs(two.statistics.raw_moment).max(initial=0)
            for moment in ("raw_moment", "unit_moment"):
                np.testing.assert_allclose(
                    getattr(one.statistics, moment), getattr(two.statistics, moment), rtol=1e-5, atol=1e-6 * scale
                )


@pytest.mark.usefixtures("on_device")
def test_a_value_that_is_not_finite_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Teacher.outputs

    def broken(self: Teacher, pixels: object) -> object:
        outputs = original(self, pixels)
        return {
            tap: values.clone().index_fill_(1, values.new_tensor([2]).long(), float("nan"))
            for tap, values in outputs.items()
        }

    monkeypatch.setattr(Teacher, "outputs", broken)
    with pytest.raises(
        BadRecordError, match=r"the teacher gives nan for key .*, tap blocks.1/patch at position \[2, 0\]"
    ):
        extract(tiny_extract(tmp_path / "c", taps=("blocks.1/patch",)))
