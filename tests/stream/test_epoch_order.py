import hashlib
import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kdcache.seeds import derived_bits
from kdcache.stream.epoch_order import EpochOrder, ranking, shard_order
from kdcache.stream.order import StreamOrder


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 5), st.integers(0, 3), st.booleans(), st.data())
def test_any_places_are_those_of_the_whole(
    sizes: list[int], window: int, epoch: int, shuffle: bool, data: st.DataObject
) -> None:
    order = EpochOrder(sizes, seed=1, epoch=epoch, window=window, shuffle=shuffle)
    whole = order.whole()
    assert len(order) == len(whole) == sum(sizes)
    places = np.array(data.draw(st.lists(st.integers(0, max(len(whole) - 1, 0)), max_size=9 if len(whole) else 0)))
    places = places.astype(np.int64).reshape(-1, 1)
    np.testing.assert_array_equal(order[places], whole[places])


def test_a_window_is_made_as_the_whole_epoch_was_before() -> None:
    """The digest is of the order when bits of all samples were drawn at once (2026-11-26)."""
    whole = EpochOrder([1000, 999, 1, 500] * 5, seed=7, epoch=3, window=3).whole()
    assert (
        hashlib.sha256(whole.astype("<i8").tobytes()).hexdigest()
        == "0ec8196a6aec1f52b92273ed713ee1fe992a063c223c95d1db812afbf117c42b"
    )


def test_samples_that_are_drawn_by_class() -> None:
    chosen = np.arange(0, 60, 3)
    order = EpochOrder([10, 10], seed=0, epoch=0, window=1, chosen=chosen)
    whole = order.whole()
    assert sorted(whole.tolist()) == chosen.tolist()
    np.testing.assert_array_equal(order[np.arange(20)], whole)


def test_memory_grows_with_the_window_and_not_with_the_epoch() -> None:
    """A hundred million samples, whose numbers alone would take 800 MB."""
    plan = StreamOrder(shard_sizes=(10_000,) * 10_000, num_views=1, batch_size=8192, seed=0)
    tracemalloc.start()
    try:
        order = plan.epoch(5)
        last = plan.batch(order, epoch=5, step=plan.steps_per_epoch - 1, rank=511, world_size=512)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert last.shape == (16, 2)
    shards = set((last[:, 0] // 10_000).tolist())
    assert shards <= set(plan.shards(5)[-16:].tolist())


def test_shards_in_the_order_of_the_cache() -> None:
    assert shard_order(3, seed=0, epoch=0, shuffle=False).tolist() == [0, 1, 2]
    assert sorted(shard_order(9, seed=0, epoch=0).tolist()) == list(range(9))


def test_equal_numbers_are_ranked_by_place() -> None:
    bits = np.array([5, 1, 5, 0, 1, 5], np.uint64)
    np.testing.assert_array_equal(ranking(bits), [3, 1, 4, 0, 2, 5])
    many = derived_bits(1000, "x")
    np.testing.assert_array_equal(ranking(many), np.argsort(many, kind="stable"))
