import numpy as np
import pytest

from kdcache.cache import Cache
from kdcache.cache.column_builder import ColumnBuilder
from kdcache.errors import BadRecordError
from tests.conftest import GROUP


def builder_for(cache: Cache, codec: str, statistics: str = "full") -> ColumnBuilder:
    column = cache.find_column(kind="patch", codec=codec)
    return ColumnBuilder(column.facts, statistics, cache.manifest.fingerprint)


def feed(builder: ColumnBuilder, values: np.ndarray, batch: int) -> None:
    for start in range(0, len(values), batch):
        part = values[start : start + batch]
        builder.add(part, np.arange(start, start + len(part), dtype=np.uint32))


@pytest.mark.parametrize("batch", [1, 5, 16])
def test_what_it_gathers_does_not_depend_on_the_cut(tiny_cache: Cache, random: np.random.Generator, batch: int) -> None:
    values = random.standard_normal((16, 16, 24)).astype(np.float32)
    builder = builder_for(tiny_cache, "fp32")
    feed(builder, values, batch)
    index = builder.finish(None)
    assert index.crc32.tolist() == list(range(16))
    np.testing.assert_array_equal(index.column_sums, values.astype(np.float64).sum(1).astype(np.float32))
    np.testing.assert_allclose(index.sum_of_squares, np.square(values.astype(np.float64)).sum((1, 2)), rtol=1e-12)
    energies = np.square(np.linalg.svd(values[index.spectrum_records].astype(np.float64), compute_uv=False))
    np.testing.assert_allclose(index.singular_energies, energies, rtol=1e-4, atol=1e-4)
    assert index.statistics.count == 16 * 16
    np.testing.assert_allclose(index.statistics.mean, values.reshape(-1, 24).mean(0), atol=1e-6)


def test_light_statistics_keep_no_moments_and_no_spectra(tiny_cache: Cache, random: np.random.Generator) -> None:
    builder = builder_for(tiny_cache, "fp32", "light")
    feed(builder, random.standard_normal((4, 16, 24)).astype(np.float32), 4)
    index = builder.finish(None)
    assert index.statistics.raw_moment.size == index.spectrum_records.size == 0
    assert index.column_sums.shape == (4, 24)


def test_a_constant_column_is_noticed(tiny_cache: Cache) -> None:
    builder = builder_for(tiny_cache, "fp32")
    builder.refuse_constant("nothing yet")
    feed(builder, np.full((4, 16, 24), 0.3, np.float32), 2)
    with pytest.raises(BadRecordError, match="a column: the teacher's outputs are exactly the same for every token"):
        builder.refuse_constant("a column")
    feed(builder, np.zeros((1, 16, 24), np.float32), 1)
    builder.refuse_constant("a column")


def test_no_records_make_an_index(tiny_cache: Cache) -> None:
    for column in tiny_cache.groups[GROUP].columns:
        index = ColumnBuilder(column.facts, "full", tiny_cache.manifest.fingerprint).finish(None)
        assert (len(index.crc32), index.column_sums.shape) == (0, (0, column.shape[-1]))
