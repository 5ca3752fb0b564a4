import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import CacheMismatchError
from kdcache.stream.order import StreamOrder, StreamState, epoch_order, rank_correlation, sample_starts

SIZES = (8, 8, 5, 8, 1)


def order(**changes: object) -> StreamOrder:
    settings = {"shard_sizes": SIZES, "num_views": 3, "batch_size": 4, "seed": 0, "window": 2}
    return StreamOrder(**{**settings, **changes})


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 5), st.integers(0, 3), st.booleans())
def test_every_sample_once_per_epoch(sizes: list[int], window: int, epoch: int, shuffle: bool) -> None:
    found = epoch_order(sizes, seed=1, epoch=epoch, window=window, shuffle=shuffle)
    assert sorted(found.tolist()) == list(range(sum(sizes)))


def test_the_order_is_frozen() -> None:
    """A resumed run must see the batches it would have seen, whatever numpy is installed by then."""
    assert epoch_order((3, 3, 2), seed=0, epoch=0, window=2).tolist() == [4, 2, 0, 5, 1, 3, 7, 6]


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(SIZES, seed=seed, epoch=epoch, window=9)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_a_window_mixes_its_shards_and_no_others() -> None:
    found = epoch_order((10,) * 6, seed=0, epoch=0, window=2)
    for first in range(0, 60, 20):
        shards = {int(sample) // 10 for sample in found[first : first + 20]}
        assert len(shards) == 2
    assert found.tolist() != sorted(found.tolist())


def test_unshuffled_is_the_order_of_the_cache() -> None:
    assert epoch_order(SIZES, seed=0, epoch=5, window=2, shuffle=False).tolist() == list(range(30))


@pytest.mark.parametrize("tail", ["drop", "pad"])
@pytest.mark.parametrize("views_per_sample", [1, 2, 3])
@pytest.mark.parametrize("epoch_of", ["samples", "views"])
def test_the_global_batch_does_not_depend_on_the_number_of_ranks(
    tail: str, views_per_sample: int, epoch_of: str
) -> None:
    plan = order(batch_size=8, tail=tail, views_per_sample=views_per_sample, epoch_of=epoch_of)
    samples = plan.epoch(3)
    for step in range(plan.steps_per_epoch):
        whole = plan.batch(samples, epoch=3, step=step)
        for world_size in (1, 2, 4):
            parts = [
                plan.batch(samples, epoch=3, step=step, rank=rank, world_size=world_size) for rank in range(world_size)
            ]
            assert len({len(part) for part in parts}) == 1
            np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_drop_and_pad() -> None:
    dropped, padded = order(batch_size=7), order(batch_size=7, tail="pad")
    assert (dropped.steps_per_epoch, padded.steps_per_epoch) == (4, 5)
    samples = padded.epoch(0).whole()
    last = padded.batch(padded.epoch(0), epoch=0, step=4)[:, 0]
    assert last.tolist() == [*samples[28:].tolist(), *samples[:5].tolist()]


def test_views_go_round() -> None:
    """Over K epochs every view of every sample is seen once."""
    plan = order(batch_size=30)
    seen = {tuple(row) for epoch in range(3) for row in plan.batch(plan.epoch(epoch), epoch=epoch, step=0).tolist()}
    assert seen == {(sample, view) for sample in range(30) for view in range(3)}


def test_views_of_a_sample_are_adjacent() -> None:
    plan = order(batch_size=6, views_per_sample=3)
    rows = plan.batch(plan.epoch(0), epoch=0, step=0)
    assert rows[0, 0] == rows[1, 0] == rows[2, 0] != rows[3, 0]
    assert sorted(rows[:3, 1].tolist()) == [0, 1, 2]


def rows_of(plan: StreamOrder, epoch: int) -> np.ndarray:
    return plan.batches(plan.epoch(epoch), epoch=epoch, steps=range(plan.steps_per_epoch)).reshape(-1, 2)


def test_repeated_augmentation_is_deits() -> None:
    """floor(N / 256) * 256 views an epoch, three of a sample side by side, so a third of the samples."""
    plan = order(shard_sizes=(100,) * 10, batch_size=256, views_per_sample=3, epoch_of="views", window=10)
    assert plan.steps_per_epoch == 3
    seen = [rows_of(plan, epoch) for epoch in range(12)]
    for rows in seen:
        assert len(rows) == 768
        counts = np.bincount(rows[:, 0])
        assert sorted(set(counts[counts > 0].tolist())) == [3]
        assert (counts > 0).sum() == 256
        assert len(np.unique(rows, axis=0)) == 768
        np.testing.assert_array_equal(rows[0::3, 0], rows[2::3, 0])
    shown = np.bincount(np.concatenate([rows[::3, 0] for rows in seen]), minlength=1000)
    # In one window epochs draw independently: 12 draws of 0.256 leave out 0.744 ** 12 of the samples, 3 %.
    assert 0 < (shown == 0).sum() < 80
    assert len({tuple(rows[:, 0]) for rows in seen}) == 12


def test_a_sample_is_divided_where_the_batch_ends() -> None:
    """A published batch of 2,048 is no multiple of 3: rows go on in the next batch as if there were no edge."""
    divided = order(shard_sizes=(40,), batch_size=16, views_per_sample=3, epoch_of="views", window=1)
    whole = order(shard_sizes=(40,), batch_size=12, views_per_sample=3, epoch_of="views", window=1)
    np.testing.assert_array_equal(rows_of(divided, 1)[:32], rows_of(whole, 1)[:32])
    assert divided.steps_per_epoch == 2
    assert rows_of(divided, 1)[15, 0] == rows_of(divided, 1)[16, 0]
    assert [divided.num_reached(steps) for steps in (0, 1, 2)] == [0, 6, 11]


def test_padded_epochs_of_views_go_on_to_the_next_samples() -> None:
    plan = order(batch_size=16, views_per_sample=2, epoch_of="views", tail="pad")
    rows = rows_of(plan, 0)
    assert (plan.steps_per_epoch, len(rows)) == (2, 32)
    assert rows[::2, 0].tolist() == plan.epoch(0).whole()[:16].tolist()


def test_runs_of_a_sample() -> None:
    assert sample_starts(np.array([[4, 0], [4, 1], [0, 0], [4, 2]])).tolist() == [0, 2, 3]
    assert sample_starts(np.array([[0, 1]])).tolist() == [0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 31}, "does not fill one batch.*at most 30"),
        ({"batch_size": 31, "views_per_sample": 3, "epoch_of": "views"}, "epoch of 30 views does not fill"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"epoch_of": "images"}, "epoch_of must be samples or views, got 'images'"),
        ({"views_per_sample": 4}, "1 to the 3 views"),
        ({"window": 0}, "window must be at least 1"),
        ({"tail": "wrap"}, "drop or pad"),
    ],
)
def test_mistakes_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        order(**changes)


def test_a_batch_that_does_not_divide() -> None:
    plan = order(batch_size=5)
    with pytest.raises(ValueError, match="does not divide among 2 ranks"):
        plan.batch(plan.epoch(0), epoch=0, step=0, rank=0, world_size=2)


def test_a_million_samples_are_ordered_quickly_enough_to_be_forgotten() -> None:
    assert len(epoch_order((5000,) * 250, seed=0, epoch=0, window=16)) == 1_250_000


def test_the_quality_of_the_shuffle() -> None:
    """Correlation with the source and between epochs falls with the window; README.md states what to expect."""
    settings = {"shard_sizes": (100,) * 64, "num_views": 1, "batch_size": 64}
    source = np.arange(6400)
    for window, most in ((1, 0.35), (16, 0.35), (64, 0.05)):
        orders = [StreamOrder(**settings, window=window, seed=3).epoch(epoch).whole() for epoch in range(12)]
        with_source = np.mean([abs(rank_correlation(order, source)) for order in orders])
        between = np.mean([abs(rank_correlation(*pair)) for pair in itertools.pairwise(orders)])
        assert max(with_source, between) < most
    assert rank_correlation(source, source) == pytest.approx(1)
    assert rank_correlation(source, source[::-1]) == pytest.approx(-1)
    assert rank_correlation(source[:1], source[:1]) == 0


PLAN = order(batch_size=8, seed=3)
STATE = StreamState(cache="a" * 64, seed=3, epoch=2, position=24, order=PLAN.description)


def test_a_state_is_a_few_plain_values() -> None:
    values = {"cache": "a" * 64, "seed": 3, "epoch": 2, "position": 24, "order": PLAN.description}
    assert STATE.as_dict() == values
    assert StreamState.from_dict(values) == STATE


def test_the_position_counts_views_so_that_ranks_do_not_matter() -> None:
    assert STATE.step("a" * 64, PLAN) == 3
    assert STATE.step("a" * 64, order(batch_size=4, seed=3)) == 6


@pytest.mark.parametrize(
    ("cache", "changes", "message"),
    [
        ("b", {}, "saved with cache aaaaaaaaaaaa…, this one is bbbbbbbbbbbb…"),
        ("a", {"seed": 4}, "saved with seed 3, this stream has seed 4"),
        (
            "a",
            {"epoch_of": "views"},
            "another order: .*; this stream has .* in epochs of as many views as samples, drop",
        ),
        ("a", {"window": 3}, "another order: windows of 2 shards, .*; this stream has windows of 3 shards"),
        ("a", {"batch_size": 7}, "is not a multiple of the 7 views"),
    ],
)
def test_another_stream_is_refused(cache: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(CacheMismatchError, match=message):
        STATE.step(cache * 64, order(**{"batch_size": 8, "seed": 3, **changes}))


def test_what_is_no_state() -> None:
    with pytest.raises(ValueError, match="not the state of a stream"):
        StreamState.from_dict({"epoch": 1})
