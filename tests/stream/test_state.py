import pytest

from kdcache.errors import CacheMismatchError
from kdcache.stream.state import StreamState

STATE = StreamState(cache="a" * 64, seed=3, epoch=2, position=24, order="windows of 2")


def test_a_state_is_a_few_plain_values() -> None:
    assert STATE.as_dict() == {"cache": "a" * 64, "seed": 3, "epoch": 2, "position": 24, "order": "windows of 2"}
    assert StreamState.from_dict(STATE.as_dict()) == STATE


def test_the_position_counts_samples_so_that_ranks_do_not_matter() -> None:
    assert STATE.step(cache="a" * 64, seed=3, samples_per_batch=8, order="windows of 2") == 3
    assert STATE.step(cache="a" * 64, seed=3, samples_per_batch=4, order="windows of 2") == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache": "b" * 64}, "saved with cache aaaaaaaaaaaa…, this one is bbbbbbbbbbbb…"),
        ({"seed": 4}, "saved with seed 3, this stream has seed 4"),
        ({"order": "windows of 3"}, "another order: windows of 2; this stream has windows of 3"),
        ({"samples_per_batch": 7}, "no multiple of the 7 samples"),
    ],
)
def test_another_stream_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CacheMismatchError, match=message):
        STATE.step(**{"cache": "a" * 64, "seed": 3, "samples_per_batch": 8, "order": "windows of 2", **changes})  # type: ignore[arg-type]


def test_what_is_no_state() -> None:
    with pytest.raises(ValueError, match="not the state of a stream"):
        StreamState.from_dict({"epoch": 1})
