"""Tokens as a product of two thin matrices of integers."""

import numpy as np
import pytest
import torch

from kdcache.cache.codecs import make_codec, parse_codec
from kdcache.cache.codecs.factor import Factor
from kdcache.stream.targets import decode

SHAPE = (196, 384)


def kept(values: np.ndarray, found: np.ndarray) -> float:
    """Of the energy around the mean of each record's channels."""
    spread = values - values.mean(axis=1, keepdims=True)
    return 1 - float(np.square(found - values).sum() / np.square(spread).sum())


def by_svd(values: np.ndarray, rank: int) -> float:
    """What the best factors of that rank keep, not rounded."""
    spread = values - values.mean(axis=1, keepdims=True)
    energy = np.square(np.linalg.svd(spread.astype(np.float64), compute_uv=False))
    return float(energy[:, :rank].sum() / energy.sum())


@pytest.fixture
def tokens(random: np.random.Generator) -> np.ndarray:
    """Directions of less and less energy around large means, as a trained ViT's tokens have."""
    left, right = random.standard_normal((3, SHAPE[0], 64)), random.standard_normal((3, 64, SHAPE[1]))
    return ((left * np.arange(1, 65) ** -0.8) @ right + 5 * random.standard_normal(SHAPE[1])).astype(np.float32)


@pytest.mark.parametrize("rank", [4, 16, 32, 64])
def test_it_keeps_what_the_svd_keeps_less_half_a_percent(tokens: np.ndarray, rank: int) -> None:
    codec = Factor(rank)
    found = kept(tokens, codec.decode(codec.encode(tokens), SHAPE))
    assert by_svd(tokens, rank) - 5e-3 < found < by_svd(tokens, rank)


def test_of_tokens_that_vary_in_few_directions_it_keeps_more_than_int4_in_half_the_bytes(tokens: np.ndarray) -> None:
    codecs = [parse_codec(text) for text in ("factor=64", "int4")]
    found = [kept(tokens, codec.decode(codec.encode(tokens), SHAPE)) for codec in codecs]
    assert 1 - found[0] < 0.7 * (1 - found[1])
    sizes = [codec.layout(SHAPE).payload_bytes for codec in codecs]
    assert sizes[0] < 0.6 * sizes[1]


def test_a_channel_that_is_large_in_all_tokens_costs_nothing(tokens: np.ndarray) -> None:
    shifted = tokens.copy()
    shifted[..., 7] += 300
    codec = Factor(32)
    found, before = (kept(each, codec.decode(codec.encode(each), SHAPE)) for each in (shifted, tokens))
    assert found == pytest.approx(before, abs=1e-3)


def test_more_tokens_than_channels(random: np.random.Generator) -> None:
    tokens = (random.standard_normal((2, 256, 6)) @ random.standard_normal((2, 6, 32))).astype(np.float32)
    codec = Factor(6)
    assert kept(tokens, codec.decode(codec.encode(tokens), (256, 32))) > 0.97


@pytest.mark.parametrize("rank", [4, 64, 192])
def test_the_product_is_exact_in_any_order_and_in_bfloat16(tokens: np.ndarray, rank: int) -> None:
    """Largest integers: sums stay below 2**24, and a weighted integer has at most eight binary digits."""
    codec = Factor(rank)
    fields = codec.encode(tokens)
    weight = fields["weight"].astype(np.int64)
    assert weight.min() >= 1
    num_fine = 2 * max(1, rank // 8)
    largest = np.where(np.arange(rank) < num_fine, 127, 7)
    assert (weight @ largest**2).max() <= 1 << 24
    for level in range(1, 128):
        weighted = torch.from_numpy(np.minimum(level, largest) * weight).float()
        assert torch.equal(weighted.bfloat16().float(), weighted)
    left, right = (codec._integers(fields[name], np).astype(np.float64) for name in ("left", "right"))
    sums = (left * weight[:, None]) @ right.transpose(0, 2, 1)
    expected = sums.astype(np.float32) * fields["scale"][:, None, None] + fields["mean"].astype(np.float32)[:, None]
    np.testing.assert_array_equal(codec.decode(fields, SHAPE), expected)


def test_it_decodes_in_a_compiled_step_and_under_autocast(tokens: np.ndarray) -> None:
    codec = Factor(16)
    fields = codec.encode(tokens)
    tensors = {name: torch.from_numpy(values) for name, values in fields.items()}
    compiled = torch.compile(lambda given: decode(given, codec, SHAPE), backend="eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compiled(tensors)
    np.testing.assert_array_equal(found.numpy(), codec.decode(fields, SHAPE))


@pytest.mark.parametrize("value", [1e7, -1e7, 3e38])
def test_overflow_is_not_finite_for_the_writer_to_refuse(tokens: np.ndarray, value: float) -> None:
    codec = Factor(8)
    values = tokens[:2].copy()
    values[1] = value
    found = codec.decode(codec.encode(values), SHAPE)
    assert np.isfinite(found[0]).all()
    assert not np.isfinite(found[1]).any()


@pytest.mark.parametrize(("shape", "wanted"), [((196, 384), 6), ((16, 96), 3), ((384,), 0)])
def test_what_auto_tries_fits_and_is_smaller_than_int4(shape: tuple[int, ...], wanted: int) -> None:
    texts = Factor.candidates(shape)
    assert len(texts) == wanted
    for text in texts:
        assert parse_codec(text).layout(shape).payload_bytes < 0.95 * make_codec("int4").layout(shape).payload_bytes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("factor", "needs the rank"),
        ("factor=x", "needs the rank"),
        ("factor=5", "even rank of 4 or more, got 5"),
        ("factor=2", "even rank of 4 or more, got 2"),
    ],
)
def test_what_users_mistype(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_codec(text)


@pytest.mark.parametrize("shape", [(7, 96), (96, 7), (96,)])
def test_a_rank_beyond_the_tokens_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 8 tokens of at least 8 channels, got shape"):
        Factor(8).layout(shape)
