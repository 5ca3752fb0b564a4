"""Logits by an unbiased sample of classes."""

import numpy as np
import pytest

from kdcache.cache.codecs import make_codec, parse_codec
from kdcache.cache.codecs.sampled import Sampled


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def given(name: str, k: int, logits: np.ndarray) -> np.ndarray:
    """The probabilities that a student is taught."""
    codec = make_codec(name, {"k": k})
    return softmax(codec.decode(codec.encode(logits), logits.shape[1:]))


@pytest.fixture
def many(random: np.random.Generator) -> np.ndarray:
    """One distribution over 100 classes, 20,000 times: other values, so other draws."""
    logits = 3 * random.standard_normal(100)
    return (logits + 1e-3 * np.arange(20_000)[:, None]).astype(np.float32)


@pytest.mark.parametrize("k", [1, 8, 50])
def test_on_average_each_class_gets_the_teachers_probability(many: np.ndarray, k: int) -> None:
    exact = softmax(many)[0]
    found = given("sampled", k, many)
    # Five standard errors of a class that gets the share of one place or nothing, and logarithms rounded to float16.
    place = np.where(found > 0, found, 1).min()
    allowed = 5 * (exact * place / len(many)) ** 0.5 + 4e-3 * exact
    assert (np.abs(found.mean(axis=0) - exact) < allowed).all()
    # The yardstick: what topk teaches differs by far more in some class.
    assert (np.abs(given("topk", k, many).mean(axis=0) - exact) > 2 * allowed).any()


def test_classes_that_are_always_kept_have_their_own_probability(many: np.ndarray) -> None:
    exact, found = softmax(many)[0], given("sampled", 8, many)
    certain = (found > 0).all(axis=0)
    assert 0 < certain.sum() < 8
    np.testing.assert_allclose(
        found[:, certain], np.broadcast_to(exact[certain], (len(many), certain.sum())), rtol=6e-3
    )


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 3000.0])
@pytest.mark.parametrize("k", [1, 5, 49, 50])
def test_k_distinct_classes_whose_probabilities_sum_to_one(random: np.random.Generator, k: int, scale: float) -> None:
    logits = (random.standard_normal((200, 50)) * scale).astype(np.float32)
    fields = Sampled(k).encode(logits)
    assert (np.diff(np.sort(fields["index"], axis=1), axis=1) > 0).all()
    assert np.isfinite(fields["values"]).all()
    assert (np.diff(fields["values"].astype(np.float32), axis=1) <= 0).all(), "largest first"
    np.testing.assert_allclose(np.exp(fields["values"].astype(np.float64)).sum(1), 1, atol=5e-3)


def test_all_classes_are_the_teachers_distribution(random: np.random.Generator) -> None:
    logits = random.standard_normal((20, 50)).astype(np.float32)
    np.testing.assert_allclose(given("sampled", 50, logits), softmax(logits), rtol=5e-3)


@pytest.mark.parametrize("text", ["sampled", "sampled=x", "sampled=0"])
def test_what_users_mistype(text: str) -> None:
    with pytest.raises(ValueError, match="sampled needs"):
        parse_codec(text)


def test_more_classes_than_there_are() -> None:
    with pytest.raises(ValueError, match="at least 5 classes"):
        Sampled(5).layout((4,))
