"""Quantised tokens: the cache's very bytes, e4m3 to the last bit, and statistics next to float64."""

import numpy as np
import pytest
import torch
from kdcache_kernels.quantize import _quantize, quantize
from kdcache_kernels.reference import dequantize
from torch import Tensor

from kdcache.cache.codecs import make_codec

SHAPES = [(256, 192), (37, 77), (3, 5, 64), (2, 7, 33), (1, 1), (1, 768)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FORMS = ["torch", "triton"]


@pytest.fixture(params=FORMS)
def device(request: pytest.FixtureRequest) -> str:
    """Both forms of the operation, one after the other."""
    return request.getfixturevalue("triton_form") if request.param == "triton" else "cpu"


def some_tokens(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Tokens with an outlier channel, a token of zeros, tiny and large tokens, and values halfway between steps."""
    torch.manual_seed(1)
    tokens = torch.randn(shape, dtype=torch.float64)
    tokens[..., 0] *= 30
    rows = tokens.view(-1, shape[-1])
    if len(rows) > 4:
        rows[0] = 0
        rows[1] *= 1e-6
        rows[2] *= 1e3
        rows[3] = torch.arange(shape[-1]) % 128 - 0.5
        rows[3, 0] = 127
        rows[4] = -rows[3]
    return tokens.to(dtype).to(device)


def as_numpy(tokens: Tensor) -> np.ndarray:
    return tokens.float().cpu().numpy()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_has_the_bytes_of_the_cache(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    tokens = some_tokens(shape, dtype, device)
    values, scale, _, _ = quantize(tokens)
    expected = make_codec("int8").encode(as_numpy(tokens))
    assert values.dtype == torch.int8
    assert values.is_contiguous()
    assert values.cpu().numpy().tobytes() == expected["values"].tobytes()
    assert scale.cpu().numpy().tobytes() == expected["scale"].tobytes()


# The interpreter's numpy warns where squares become Inf.
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("factor", [1e-45, 1e-43, 1e-38, 1e18, 1e36])
def test_the_ends_of_the_range_have_the_bytes_of_the_cache(factor: float, device: str) -> None:
    tokens = (some_tokens((6, 40), torch.float64, "cpu").clamp(-30, 30) * factor).float().to(device)
    values, scale, _, _ = quantize(tokens)
    expected = make_codec("int8").encode(as_numpy(tokens))
    assert values.cpu().numpy().tobytes() == expected["values"].tobytes()
    assert scale.cpu().numpy().tobytes() == expected["scale"].tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fp8_is_the_nearest_e4m3(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    tokens = some_tokens(shape, dtype, device)
    values, scale, _, _ = quantize(tokens, codec="fp8")
    exact = as_numpy(tokens)
    expected_scale = np.abs(exact).max(axis=-1) / np.float32(448)
    steps = exact / np.where(expected_scale > 0, expected_scale, np.float32(1))[..., None]
    assert values.dtype == torch.float8_e4m3fn
    assert scale.cpu().numpy().tobytes() == expected_scale.tobytes()
    expected = torch.from_numpy(steps).clamp(-448, 448).to(torch.float8_e4m3fn)
    torch.testing.assert_close(values.cpu().view(torch.uint8), expected.view(torch.uint8), rtol=0, atol=0)


def test_every_kind_of_e4m3_is_rounded_right(device: str) -> None:
    """All finite codes, all midpoints between neighbours, and the floats next to those, subnormals included."""
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middles = (codes[1:] + codes[:-1]) / 2
    near = torch.cat([codes, middles, torch.nextafter(middles, codes[1:]), torch.nextafter(middles, codes[:-1])])
    tokens = torch.cat([near, -near]).unsqueeze(0)
    values, scale, _, _ = quantize(tokens.to(device), codec="fp8")
    assert scale.item() == 1
    expected = tokens.to(torch.float8_e4m3fn).view(torch.uint8)
    torch.testing.assert_close(values.cpu().view(torch.uint8), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_as_exact_as_torch(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    tokens = some_tokens(shape, dtype, device)
    _, _, sums, squares = quantize(tokens)
    exact = tokens.double()
    assert sums.shape == squares.shape == tokens.shape[:-1]
    torch.testing.assert_close(squares.double(), exact.square().sum(-1), rtol=1e-6, atol=0)
    error = (sums.double() - exact.sum(-1)).abs()
    assert (error <= 1e-6 * exact.abs().sum(-1)).all()


@pytest.mark.parametrize("codec", ["int8", "fp8"])
def test_what_is_decoded_is_near(codec: str, device: str) -> None:
    tokens = some_tokens((64, 96), torch.float32, device)
    values, scale, _, _ = quantize(tokens, codec=codec)
    error = (dequantize(values, scale) - tokens).abs().amax(-1)
    largest = tokens.abs().amax(-1)
    # Half a step of int8; e4m3's widest step, 32 of 448, is between 256 and 448.
    assert (error <= largest * {"int8": 0.5 / 127, "fp8": 16 / 448}[codec] * 1.001).all()


@pytest.mark.parametrize("codec", ["int8", "fp8"])
def test_a_scale_tells_of_nan_and_infinity(codec: str, device: str) -> None:
    tokens = some_tokens((12, 40), torch.float32, device)
    tokens[5, 3] = float("nan")
    tokens[6, 39] = float("inf")
    tokens[7, 0] = -float("inf")
    _, scale, _, _ = quantize(tokens, codec=codec)
    bad = ~torch.isfinite(scale).cpu()
    assert bad.nonzero().flatten().tolist() == [5, 6, 7]


@pytest.mark.parametrize("codec", ["int8", "fp8"])
def test_views_are_read_in_place(codec: str, device: str) -> None:
    everything = some_tokens((3, 9, 48), torch.float32, device)
    for view in (everything[:, 2:], everything[:, :, 8:40], everything[:, 1:8:3], everything[:, 0]):
        expected = quantize(view.contiguous(), codec=codec)
        found = quantize(view, codec=codec)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours.float(), theirs.float(), rtol=0, atol=0)


@pytest.mark.parametrize("codec", ["int8", "fp8"])
def test_library_contract(codec: str, device: str) -> None:
    tokens = some_tokens((3, 5, 16), torch.float32, device)
    torch.library.opcheck(_quantize, (tokens, codec))
    torch.library.opcheck(_quantize, (tokens[:, 1:, 4:], codec))
    compiled = torch.compile(lambda each: quantize(each, codec=codec), fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(compiled(tokens), quantize(tokens, codec=codec), strict=True):
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("tokens", "codec", "message"),
    [
        (torch.zeros(4, 8), "int4", "'int4'"),
        (torch.zeros(8), "int8", r"\(8,\)"),
        (torch.zeros(0, 8), "int8", r"\(0, 8\)"),
        (torch.zeros(4, 0), "fp8", r"\(4, 0\)"),
        (torch.zeros(4, 8, dtype=torch.int32), "int8", "torch.int32"),
        (torch.zeros(8, 4).t(), "int8", "contiguous"),
    ],
    ids=str,
)
def test_other_input_is_refused(tokens: Tensor, codec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(tokens, codec=codec)


def test_rows_too_wide_for_a_program_run_in_torch(triton_form: str) -> None:
    values, scale, *_ = quantize(torch.full((1, 16385), 2.0, device=triton_form))
    assert int(values.min()) == 127
    torch.testing.assert_close(scale.cpu(), torch.tensor([2 / 127]))
