"""Second moments of tokens, and the mean spectrum that they hold, against the obvious formulas in float64."""

import importlib

import pytest
import torch
from kdcache_kernels import reference_spectral
from kdcache_kernels.second_moment import mean_spectrum_from_second_moment, second_moment
from kdcache_kernels.token_spectrum import token_spectrum
from torch import Tensor


def tokens_of(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(shape, generator=generator, dtype=torch.float64) + 0.3
    tokens[..., 1] *= 30
    return tokens.to(dtype)


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_mean_of_outer_products(unit_norm: bool, dtype: torch.dtype) -> None:
    for shape in ((50, 12), (1, 5), (3, 7, 9)):
        tokens = tokens_of(*shape, dtype=dtype)
        weights = torch.rand(shape[:-1], generator=torch.Generator().manual_seed(1))
        for weighted in (None, weights):
            exact = reference_spectral.second_moment(
                tokens.double(), unit_norm=unit_norm, weights=None if weighted is None else weighted.double()
            )
            found = second_moment(tokens, unit_norm=unit_norm, weights=weighted)
            assert found.dtype == torch.float64
            assert error(found, exact) < (1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("unit_norm", [False, True])
def test_many_tokens_lose_no_digits(unit_norm: bool) -> None:
    """Float32 sums over 60,000 tokens lose digits; partial sums in float64 do not."""
    tokens = tokens_of(60_000, 6, dtype=torch.float32)
    exact = reference_spectral.second_moment(tokens.double(), unit_norm=unit_norm)
    eager = reference_spectral.second_moment(tokens, unit_norm=unit_norm)
    ours = error(second_moment(tokens, unit_norm=unit_norm), exact)
    assert ours < 5e-7 and ours < 1.5 * error(eager, exact) + 1e-7


def test_tokens_past_a_chunk_count(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, weights = tokens_of(4, 11, 6), torch.arange(44.0, dtype=torch.float64).view(4, 11)
    for weighted in (None, weights):
        whole = second_moment(tokens, unit_norm=True, weights=weighted)
        for chunk_tokens in (1, 4, 25):
            monkeypatch.setattr(importlib.import_module("kdcache_kernels.second_moment"), "_CHUNK_TOKENS", chunk_tokens)
            assert error(second_moment(tokens, unit_norm=True, weights=weighted), whole) < 1e-14
        monkeypatch.undo()


@pytest.mark.parametrize("unit_norm", [False, True])
def test_chunks_of_a_gpu_are_multiplied_at_once(unit_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("kdcache_kernels.second_moment")
    monkeypatch.setattr(module, "_CHUNK_TOKENS", 16)
    monkeypatch.setattr(module, "token_chunks", lambda tokens, most: iter([tokens.unsqueeze(0)]))
    for num_tokens in (16, 17, 48, 55):
        tokens = tokens_of(num_tokens, 6, dtype=torch.float32)
        exact = reference_spectral.second_moment(tokens.double(), unit_norm=unit_norm)
        assert error(second_moment(tokens, unit_norm=unit_norm), exact) < 1e-6


def test_slices_of_a_sequence() -> None:
    whole = tokens_of(3, 9, 8)
    assert error(second_moment(whole[:, 1:, :6]), second_moment(whole[:, 1:, :6].contiguous())) < 1e-15


def test_zero_tokens_count_only_unnormalised() -> None:
    tokens = tokens_of(30, 6)
    tokens[::3] = 0
    kept = tokens[torch.arange(30) % 3 != 0]
    assert error(second_moment(tokens, unit_norm=True), second_moment(kept, unit_norm=True)) < 1e-14
    assert error(second_moment(tokens), second_moment(kept) * 20 / 30) < 1e-14
    assert torch.equal(second_moment(torch.zeros(4, 3), unit_norm=True), torch.zeros(3, 3, dtype=torch.float64))
    assert torch.equal(second_moment(torch.ones(4, 3), weights=torch.zeros(4)), torch.zeros(3, 3, dtype=torch.float64))


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e25])
def test_what_is_not_finite_shows(unit_norm: bool, bad: float) -> None:
    """Also where float32 does not hold the square."""
    tokens = tokens_of(5, 4, dtype=torch.float32)
    tokens[2, 1] = bad
    assert not second_moment(tokens, unit_norm=unit_norm).isfinite().all()


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("width", [1, 2, 3, 8, 9, 48, 77])
def test_the_matrix_holds_the_mean_spectrum(width: int, fold: bool) -> None:
    tokens = torch.randn(40, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.2
    matrix = second_moment(tokens, unit_norm=True)
    found = mean_spectrum_from_second_moment(matrix, fold=fold)
    exact = reference_spectral.token_energies(tokens, fold=fold).mean(0)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)
    torch.testing.assert_close(found, token_spectrum(tokens, fold=fold)[0], rtol=0, atol=1e-12)
    if not fold:
        by_definition = reference_spectral.mean_spectrum_from_second_moment(matrix)
        torch.testing.assert_close(found, by_definition, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fold", [False, True])
def test_permuting_channels_permutes_rows_and_columns(fold: bool) -> None:
    tokens = tokens_of(2, 30, 24)
    matrix = second_moment(tokens, unit_norm=True)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    found = mean_spectrum_from_second_moment(matrix[order][:, order], fold=fold)
    torch.testing.assert_close(found, token_spectrum(tokens[..., order], fold=fold)[0], atol=1e-12, rtol=0)
    assert (found - mean_spectrum_from_second_moment(matrix, fold=fold)).abs().max() > 1e-4


def test_autocast_rounds_nothing() -> None:
    tokens = tokens_of(20, 6, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = second_moment(tokens, unit_norm=True)
    assert torch.equal(found, second_moment(tokens, unit_norm=True))


def test_nothing_is_differentiable_and_all_compiles() -> None:
    tokens = tokens_of(9, 6).requires_grad_()
    assert not second_moment(tokens).requires_grad
    compiled = torch.compile(
        lambda x: mean_spectrum_from_second_moment(second_moment(x, unit_norm=True)),
        fullgraph=True,
        backend="aot_eager",
    )
    torch.testing.assert_close(
        compiled(tokens), mean_spectrum_from_second_moment(second_moment(tokens, unit_norm=True))
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="library products of 16 bits into float32 need a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bit_products_on_a_gpu(dtype: torch.dtype) -> None:
    tokens = tokens_of(3, 3000, 64, dtype=dtype)
    assert error(second_moment(tokens.cuda()).cpu(), reference_spectral.second_moment(tokens.double())) < 1e-5


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(0, 4\)"):
        second_moment(torch.zeros(0, 4))
    with pytest.raises(ValueError, match=r"\(5,\), got \(4,\)"):
        second_moment(torch.zeros(5, 4), weights=torch.ones(4))
    with pytest.raises(ValueError, match="int64"):
        second_moment(torch.zeros(5, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        mean_spectrum_from_second_moment(torch.zeros(3, 4))
