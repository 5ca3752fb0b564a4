import numpy as np
import pytest

from kdcache.cache.codecs import make_codec
from kdcache.cache.fidelity import Fidelity, decisive_error


def test_fidelity_by_hand() -> None:
    fidelity = Fidelity()
    fidelity.update(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32), np.array([[3.0, 0.0], [0.0, 0.0]], np.float32))
    # Deviations from the means (1.5, 2) sum to 4.5 and 8; the second channel loses 16.
    assert fidelity.summary() == pytest.approx(
        {
            "relative_error": 0.8,
            "cosine": 0.6,
            "energy_kept": 9 / 25,
            "centred_error": np.sqrt(16 / 12.5),
            "median_channel_error": np.sqrt(2) / 2,
            "worst_channel_error": np.sqrt(2),
            "channels_above_tenth": 0.5,
        }
    )
    other = Fidelity()
    other.update(np.array([[1.0, 0.0]], np.float32), np.array([[1.0, 0.0]], np.float32))
    fidelity.merge(other)
    assert fidelity.summary()["cosine"] == pytest.approx(0.8)


def test_fidelity_of_nothing_is_perfect() -> None:
    assert Fidelity().summary() == {"relative_error": 0.0, "cosine": 1.0, "energy_kept": 1.0}


def test_probabilities_are_not_measured_channel_by_channel() -> None:
    fidelity = Fidelity()
    fidelity.update(np.array([[0.25, 0.75]], np.float32), np.array([[0.5, 0.5]], np.float32), by_channel=False)
    assert set(fidelity.summary()) == {"relative_error", "cosine", "energy_kept"}


@pytest.mark.parametrize("shape", [(0, 6, 4), (2, 0, 4)], ids=str)
def test_no_records_and_no_tokens_change_nothing(shape: tuple[int, ...]) -> None:
    fidelity = Fidelity()
    fidelity.update(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    assert fidelity.summary() == Fidelity().summary()


def test_parts_merge_to_the_whole(random: np.random.Generator) -> None:
    values = (random.standard_normal((12, 5, 4)) * [1, 2, 3, 40] + [0, 100, 0, 0]).astype(np.float32)
    decoded = values + random.standard_normal(values.shape).astype(np.float32) / 50
    whole, total = Fidelity(), Fidelity()
    whole.update(values, decoded)
    for rows in (slice(0, 0), slice(0, 3), slice(3, 4), slice(4, 12)):
        part = Fidelity()
        part.update(values[rows], decoded[rows])
        total.merge(Fidelity.from_arrays(*part.arrays().values()))
    assert total.summary() == pytest.approx(whole.summary(), rel=1e-6)


@pytest.mark.parametrize(("size", "share"), [(0, 0.0), (100, 1.0)])
def test_one_large_channel_does_not_hide_what_the_others_lose(
    random: np.random.Generator, size: float, share: float
) -> None:
    """Massive activations: cosine and relative error look well, and int8 has lost a fifth of every other channel."""
    values = random.standard_normal((4, 50, 384)).astype(np.float32)
    values[..., 7] += size
    codec, fidelity = make_codec("int8"), Fidelity()
    fidelity.update(values, codec.decode(codec.encode(values), values.shape[1:]))
    found = fidelity.summary()
    assert found["cosine"] > 0.999
    assert found["relative_error"] < 0.05
    assert found["channels_above_tenth"] == pytest.approx(share, abs=0.01)
    assert (found["centred_error"] > 0.2) == (share > 0)
    assert found["median_channel_error"] == pytest.approx(found["centred_error"], rel=0.1)


def test_what_a_channel_that_is_huge_in_few_tokens_does_to_the_others_decides(random: np.random.Generator) -> None:
    """It is most of the spread: the error of all channels looks small while the others lose a fifth and more."""
    values = random.standard_normal((4, 50, 384)).astype(np.float32)
    values[:, ::10, 7] += 300
    codec, fidelity = make_codec("int8"), Fidelity()
    fidelity.update(values, codec.decode(codec.encode(values), values.shape[1:]))
    found = fidelity.summary()
    assert found["centred_error"] < 0.05
    assert decisive_error(found) == found["median_channel_error"] / 2 > 0.1


def test_else_the_centred_error_decides_and_of_probabilities_the_relative_one(random: np.random.Generator) -> None:
    values = random.standard_normal((4, 50, 8)).astype(np.float32)
    fidelity = Fidelity()
    fidelity.update(values, values * np.float32(0.9))
    assert decisive_error(fidelity.summary()) == fidelity.summary()["centred_error"]
    assert decisive_error({"relative_error": 0.3, "cosine": 1.0}) == 0.3
    assert decisive_error({}) == 0.0
