"""A scale for each channel of a record, and one for each token."""

import numpy as np
import pytest
import torch

from kdcache.cache.codecs import make_codec
from tests.cache.codecs.conformance import channel_errors


@pytest.fixture
def tokens(random: np.random.Generator) -> np.ndarray:
    # Channels differ in size, as a teacher's do.
    return (random.standard_normal((4, 196, 96)) * np.geomspace(0.1, 10, 96)).astype(np.float32)


@pytest.mark.parametrize("num_tokens", [16, 196])
@pytest.mark.parametrize("fraction", [1.0, 0.1, 0.005])
@pytest.mark.parametrize("offset", [100, 300, -300, 3000])
def test_a_channel_far_larger_than_the_others_costs_each_of_them_less_than_2_percent(
    tokens: np.ndarray, random: np.random.Generator, num_tokens: int, fraction: float, offset: float
) -> None:
    shifted = tokens[:, :num_tokens].copy()
    shifted[..., 7] += offset * (random.random(shifted.shape[:2]) < fraction)
    assert np.delete(channel_errors(make_codec("int8c"), shifted), 7).max() < 0.02


def test_a_channel_at_300_in_all_tokens_keeps_its_own_spread_too(tokens: np.ndarray) -> None:
    shifted = tokens.copy()
    shifted[..., 50] += 300
    assert channel_errors(make_codec("int8c"), shifted).max() < 0.05
    assert np.median(channel_errors(make_codec("int8"), shifted)) > 0.5


def test_tokens_far_larger_than_the_others_cost_them_little(tokens: np.ndarray) -> None:
    grown = tokens.copy()
    grown[:, ::50] *= 30
    codec = make_codec("int8c")
    error = codec.decode(codec.encode(grown), (196, 96)) - grown
    others = np.delete(np.arange(196), np.arange(0, 196, 50))
    assert np.linalg.norm(error[:, others]) < 0.015 * np.linalg.norm(grown[:, others])


def test_it_takes_little_more_than_a_byte_a_value() -> None:
    sizes = [make_codec(name).layout((196, 384)).payload_bytes for name in ("int8c", "int8", "fp16")]
    assert sizes[0] == 196 * 384 + 2 * 196 + 4 * 384 < 1.02 * sizes[1] < 0.52 * sizes[2]


def test_constant_channels_come_back_as_float16(random: np.random.Generator) -> None:
    channels = random.standard_normal(96).astype(np.float32)
    tokens = np.broadcast_to(channels, (1, 49, 96))
    found = make_codec("int8c").decode(make_codec("int8c").encode(tokens), (49, 96))
    assert np.abs(found - tokens).max() < 2.0**-11


@pytest.mark.parametrize("value", [1e7, -1e7, 3e38])
def test_overflow_is_not_finite_for_the_writer_to_refuse(value: float) -> None:
    codec = make_codec("int8c")
    values = np.random.default_rng(0).standard_normal((2, 49, 96)).astype(np.float32)
    values[1, :, 5] = value
    found = codec.decode(codec.encode(values), (49, 96))
    assert np.isfinite(found[0]).all()
    assert not np.isfinite(found[1, :, 5]).any()


def test_all_of_fp16_is_in_range(random: np.random.Generator) -> None:
    signs = np.where(random.random((2, 49, 96)) < 0.5, -1, 1)
    codec = make_codec("int8c")
    for values in (signs * 65504, np.full((2, 49, 96), 65504), np.full((2, 49, 96), -65504)):
        assert np.isfinite(codec.decode(codec.encode(values.astype(np.float32)), (49, 96))).all()


@pytest.mark.parametrize("shape", [(15, 96), (1, 96), (96,)])
def test_few_tokens_are_refused_and_told_what_to_take(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"int8c stores 16 tokens a record or more.*fp16"):
        make_codec("int8c").layout(shape)


def test_it_decodes_in_a_compiled_step_and_under_autocast(random: np.random.Generator) -> None:
    codec = make_codec("int8c")
    fields = codec.encode(random.standard_normal((3, 49, 96)).astype(np.float32))
    tensors = {name: torch.from_numpy(values) for name, values in fields.items()}
    compiled = torch.compile(lambda given: codec.unpack(given, (49, 96), torch), backend="eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compiled(tensors)
    np.testing.assert_array_equal(found.numpy(), codec.decode(fields, (49, 96)))
