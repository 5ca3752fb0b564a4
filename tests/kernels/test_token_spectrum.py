"""Mean spectra and bandwidths of tokens, in torch and in Triton, against float64 FFTs."""

import importlib
from typing import Any

import pytest
import torch
from kdcache_kernels import reference_spectral
from kdcache_kernels.device import spectrum_dft, spectrum_fold4
from kdcache_kernels.token_spectrum import _torch_form, cumulative_energy, skipped_tokens, token_spectrum
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

LEVELS = (0.5, 0.9, 0.99)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def noise(*shape: int, dtype: torch.dtype = torch.float64, outlier: float = 1, mean: float = 0) -> Tensor:
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + mean
    tokens[..., shape[-1] // 3] *= outlier
    return tokens.to(dtype)


def check(tokens: Tensor, device: str, *, fold: bool, per_bin: float, total: float, slack: float) -> None:
    """Energies per bin (relative to it or to the mean bin) and in sum, and bandwidths by the float64 curve."""
    energy, bandwidth = (each.cpu() for each in token_spectrum(tokens.to(device), levels=LEVELS, fold=fold))
    each = reference_spectral.token_energies(tokens.double(), fold=fold)
    exact = each.flatten(0, -2).mean(0)
    assert energy.shape == exact.shape and energy.dtype == torch.float32
    assert ((energy - exact).abs() / exact.clamp(min=float(exact.mean()))).max() < per_bin
    assert abs(energy.double().sum() - 1) < total
    assert bandwidth.shape == (*tokens.shape[:-1], len(LEVELS)) and bandwidth.dtype == torch.int32
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    curve = torch.nn.functional.pad(each.cumsum(-1), (1, 0))
    assert bandwidth.min() >= 1
    assert (curve.gather(-1, bandwidth.long()) >= levels - slack).all()
    assert (curve.gather(-1, bandwidth.long() - 1) < levels + slack).all()
    assert (bandwidth - reference_spectral.token_bandwidth(each, LEVELS)).abs().max() <= (1 if slack > 1e-5 else 0)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 9, 50, 77])
def test_half_a_spectrum_gives_the_bandwidth_of_all_bins(width: int, fold: bool) -> None:
    """By brute force over all bins, for odd and even widths; levels down to the last bin."""
    levels = [0.001, 0.05, 0.3, 0.5, 0.77, 0.9, 0.999, 1 - 1e-9]
    tokens = noise(60, width, mean=0.3)
    each = reference_spectral.token_energies(tokens, fold=fold)
    energy, bandwidth = token_spectrum(tokens, levels=levels, fold=fold)
    torch.testing.assert_close(energy, each.mean(0), rtol=1e-12, atol=1e-14)
    assert torch.equal(bandwidth, reference_spectral.token_bandwidth(each, levels).int())


@pytest.mark.parametrize("shape", [(40, 192), (3, 13, 48), (37, 77), (33, 50), (21, 36)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triton_is_as_exact_as_its_operands(triton_form: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(noise(*shape, dtype=dtype), triton_form, fold=False, per_bin=5e-4, total=2e-4, slack=1e-3)


@pytest.mark.parametrize("shape", [(3, 13, 48), (37, 77), (33, 50)], ids=str)
def test_triton_folds_as_exactly(triton_form: str, shape: tuple[int, ...]) -> None:
    check(noise(*shape, dtype=torch.bfloat16), triton_form, fold=True, per_bin=5e-4, total=2e-4, slack=1e-3)


@pytest.mark.parametrize("shape", [(1, 64), (5, 12), (1, 4), (2, 3), (3, 2), (4, 1)], ids=str)
def test_few_tokens_and_few_channels(triton_form: str, shape: tuple[int, ...]) -> None:
    """Nothing averages the operands' rounding here."""
    check(noise(*shape, dtype=torch.float32), triton_form, fold=False, per_bin=2e-3, total=1e-3, slack=1e-3)


@pytest.mark.parametrize("shape", [(40, 192), (37, 77)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_is_exact_to_rounding(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for fold in (False, True):
        check(noise(*shape, dtype=dtype), "cpu", fold=fold, per_bin=1e-6, total=1e-6, slack=1e-6)


@pytest.mark.parametrize("width", [192, 75])
def test_outlier_channels_and_a_mean(form: str, width: int) -> None:
    for tokens in (
        noise(20, width, dtype=torch.bfloat16, outlier=200),
        noise(20, width, dtype=torch.float32, mean=2),
        noise(20, width, dtype=torch.float32) * 2.0 ** torch.arange(-40, 40, 4)[:, None],
    ):
        # Tokens that are nearly one channel see the rounding of its row of the DFT matrix, 2^-11 before squaring.
        check(tokens, form, fold=False, per_bin=1e-3, total=3e-4, slack=1e-3)


def test_tokens_of_one_channel_or_of_one_frequency(form: str) -> None:
    """A single channel has all bins alike, a constant one bin."""
    one_hot, constant = torch.zeros(5, 384, device=form), torch.full((5, 384), 0.5, device=form)
    one_hot[:, 17] = 3
    energy, bandwidth = token_spectrum(one_hot, levels=(0.5, 0.9))
    torch.testing.assert_close(energy.cpu(), torch.full((384,), 1 / 384), rtol=1e-3, atol=0)
    assert (bandwidth.cpu() - torch.tensor([192, 346])).abs().max() <= 1
    energy, bandwidth = token_spectrum(constant, levels=(0.5, 0.9), fold=True)
    assert energy.argmax() == 0 and abs(energy[0] - 1) < 1e-6 and (bandwidth == 1).all()


def test_white_noise_crosses_where_the_papers_models_do() -> None:
    curve = cumulative_energy(token_spectrum(noise(3000, 384, dtype=torch.float32))[0])
    crossings = torch.tensor([int((curve < level).sum()) + 1 for level in (0.5, 0.6, 0.7, 0.8, 0.9)])
    assert (crossings - torch.tensor([192, 231, 269, 308, 346])).abs().max() <= 1
    torch.testing.assert_close(curve[-1], curve.new_ones(()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [48, 50])
def test_zero_tokens_are_skipped(form: str, width: int) -> None:
    tokens = noise(33, width, dtype=torch.float32).to(form)
    tokens[::4] = 0
    energy, bandwidth = token_spectrum(tokens, levels=LEVELS)
    kept = tokens[torch.arange(33) % 4 != 0]
    torch.testing.assert_close(energy, token_spectrum(kept, levels=LEVELS)[0], rtol=1e-6, atol=1e-9)
    assert (bandwidth[::4] == 0).all() and (bandwidth > 0).sum() == kept.shape[0] * len(LEVELS)
    assert skipped_tokens(bandwidth) == 9
    energy, bandwidth = token_spectrum(torch.zeros_like(tokens), fold=True)
    assert torch.equal(energy.cpu(), torch.zeros(width // 2 + 1)) and skipped_tokens(bandwidth) == 33


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e25])
@pytest.mark.parametrize("width", [48, 50])
def test_what_is_not_finite_shows(form: str, width: int, bad: float) -> None:
    """Also where float32 does not hold the energy."""
    tokens = noise(33, width, dtype=torch.float32).to(form)
    tokens[20, 7] = bad
    energy, bandwidth = token_spectrum(tokens)
    assert energy.isnan().all()
    assert bandwidth[20] == -1 and (bandwidth > 0).sum() == 32


def test_many_levels_of_any_order(triton_form: str) -> None:
    tokens = noise(20, 48, dtype=torch.float32).to(triton_form)
    levels = [0.9, 0.1, 0.25, 0.5, 0.75, 0.33, 0.66]
    _, bandwidth = token_spectrum(tokens, levels=levels)
    for position, level in enumerate(levels):
        assert torch.equal(bandwidth[:, position], token_spectrum(tokens, levels=[level])[1][:, 0])
    assert (token_spectrum(tokens, levels=[1])[1] <= 48).all()


@pytest.mark.parametrize("width", [48, 45])
def test_slices_are_read_where_they_lie(form: str, width: int) -> None:
    whole = noise(3, 12, width + 3, dtype=torch.bfloat16).to(form)
    part = whole[:, 2:, :width]
    assert not part.is_contiguous()
    for ours, copied in zip(token_spectrum(part), token_spectrum(part.contiguous()), strict=True):
        assert torch.equal(ours, copied)
    for ours, copied in zip(token_spectrum(whole.mT), token_spectrum(whole.mT.contiguous()), strict=True):
        assert torch.equal(ours, copied)


@pytest.mark.parametrize("width", [48, 50])
def test_runs_repeat_bitwise(form: str, width: int) -> None:
    tokens = noise(70, width, dtype=torch.float16).to(form)
    first, second = token_spectrum(tokens), token_spectrum(tokens)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_autocast_rounds_nothing(form: str) -> None:
    tokens = noise(9, 48, dtype=torch.float32).to(form)
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
        cast = token_spectrum(tokens)
    for ours, plain in zip(cast, token_spectrum(tokens), strict=True):
        assert torch.equal(ours, plain)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = noise(4, 11, 20)
    whole = token_spectrum(tokens, levels=LEVELS)
    module = importlib.import_module("kdcache_kernels.token_spectrum")
    for num_tokens in (1, 5, 25):
        monkeypatch.setattr(module, "tokens_at_once", lambda *_, most=num_tokens: most)
        energy, bandwidth = token_spectrum(tokens, levels=LEVELS)
        torch.testing.assert_close(energy, whole[0], rtol=1e-13, atol=0)
        assert torch.equal(bandwidth, whole[1])


def test_matrices_of_few_widths_are_kept(triton_form: str) -> None:
    kernels = [importlib.import_module(f"kdcache_kernels.device.spectrum_{each}") for each in ("fold4", "dft")]
    for width in range(1, 24):
        token_spectrum(noise(1, width, dtype=torch.float32).to(triton_form))
    for kernel in kernels:
        assert kernel._matrices.cache_info().currsize <= 8


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # opcheck reads it of a copy
def test_operator_contract_and_compile() -> None:
    for tokens in (noise(9, 12), noise(2, 5, 7, dtype=torch.bfloat16), noise(3, 8).requires_grad_()):
        for fold in (False, True):
            torch.library.opcheck(torch.ops.kd.token_spectrum.default, (tokens, [0.5, 0.9], fold))
    tokens = noise(9, 12, dtype=torch.float32).requires_grad_()
    energy, bandwidth = token_spectrum(tokens)
    assert not energy.requires_grad and not bandwidth.requires_grad
    compiled = torch.compile(lambda x: token_spectrum(torch.tanh(x))[0] * 2, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens), token_spectrum(torch.tanh(tokens))[0] * 2)


@pytest.mark.parametrize("shape", [(0, 8), (3, 0, 8), (4, 0), (8,), (2, 2, 2, 2)], ids=str)
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=str(shape).replace("(", r"\(").replace(")", r"\)")):
        token_spectrum(torch.zeros(shape))


@pytest.mark.parametrize("levels", [(), (0.0,), (0.9, 1.1), (float("nan"),)], ids=str)
def test_other_levels_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="levels"):
        token_spectrum(torch.ones(2, 4), levels=levels)


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="int8"):
        token_spectrum(torch.ones(2, 4, dtype=torch.int8))


@pytest.mark.parametrize("kernel", [spectrum_fold4, spectrum_dft])
def test_nothing_is_kept_that_a_graph_owns(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="call token_spectrum once at this width before the capture"):
        kernel._matrices(20, 32, 32, torch.device("cpu"))


def test_the_torch_form_copies_nothing_from_the_host() -> None:
    """Such a copy cannot be captured in a CUDA graph; levels are filled on the device."""

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if func._schema.name in ("aten::_to_copy", "aten::copy_", "aten::lift_fresh"):
                tensors = [each for each in tree_flatten((args, result))[0] if isinstance(each, torch.Tensor)]
                assert len({each.device.type for each in tensors}) == 1, func
                assert func._schema.name != "aten::lift_fresh"
            return result

    with FakeTensorMode(), Copies():
        _torch_form(torch.empty(32, 24, device="cuda"), [0.5, 0.9], False)
