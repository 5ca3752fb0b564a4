"""Lift's tokens, loss and pooled features beside the formula written out."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from kdcache_kernels import LiftedTokens, dequantize, lift, lift_mse, lift_tokens
from torch import Tensor

from tests.kernels.problems import relative_error

NAMES = ("loss", "pooled", "tokens", "weight", "norm weight", "norm bias")
# As for the projected losses: what rounding alone may cost in each type, and a little more.
CAPS = {torch.float32: 1e-5, torch.bfloat16: 1.2e-2}


def make(shape: tuple[int, int, int], width: int, seed: int = 0) -> tuple[tuple[Tensor, ...], Tensor]:
    """Tokens, weight, LayerNorm's weight and bias, and targets; tokens have a common offset."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    leaves = (normal(*shape) + 0.5, 0.02 * normal(width, shape[-1]), 1 + 0.1 * normal(width), 0.1 * normal(width))
    return leaves, written_out(*leaves)[1] * 0.7 + 0.7 * normal(*shape[:2], width)


def written_out(tokens: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> tuple[Tensor, Tensor]:
    """The mean lifted tokens and the lifted tokens."""
    lifted = F.layer_norm(F.linear(tokens, weight), norm_weight.shape, norm_weight, norm_bias)
    return lifted.mean(1), lifted


def results(step: Callable[..., tuple[Tensor, Tensor]], leaves: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    """Loss, pooled features, and gradients of a function of both."""
    leaves = tuple(each.to(dtype).clone().requires_grad_() for each in leaves)
    loss, pooled = step(*leaves)
    (3 * loss + pooled.square().sum()).backward()
    return [loss.detach(), pooled.detach(), *(each.grad for each in leaves if each.grad is not None)]


def unfused(targets: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    def step(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        pooled, lifted = written_out(*leaves)
        return F.mse_loss(lifted, targets.to(lifted.dtype)), pooled

    return step


@pytest.mark.parametrize("most", [7, 40])
@pytest.mark.parametrize(("shape", "width"), [((3, 17, 12), 24), ((2, 9, 20), 16), ((3, 17, 130), 140)], ids=str)
def test_the_identity_is_exact(
    shape: tuple[int, int, int], width: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With chunks of a part of an image, and of two images."""
    monkeypatch.setattr(lift, "tokens_at_once", lambda *_: most)
    leaves, targets = make(shape, width)
    wanted = results(unfused(targets), leaves, torch.float64)
    found = results(lambda *each: lift_mse(*each, targets), leaves, torch.float64)
    for name, mine, right in zip(NAMES, found, wanted, strict=True):
        assert relative_error(mine, right) < 1e-12, name


@pytest.mark.parametrize("used", ["loss", "pooled", "tokens"])
def test_each_result_may_be_used_without_the_others(used: str) -> None:
    leaves, targets = make((3, 17, 12), 24)

    def found(*each: Tensor) -> Tensor:
        lifted = lift_tokens(*each)
        return {"loss": lambda: lifted.mse(targets), "pooled": lifted.pooled, "tokens": lifted.whole}[used]()

    def wanted(*each: Tensor) -> Tensor:
        pooled, tokens = written_out(*each)
        return {"loss": F.mse_loss(tokens, targets), "pooled": pooled, "tokens": tokens}[used]

    gradients = []
    for step in (found, wanted):
        mine = [each.clone().requires_grad_() for each in leaves]
        step(*mine).square().sum().backward()
        gradients.append([each.grad for each in mine])
    for ours, right in zip(*gradients, strict=True):
        assert ours is not None
        assert right is not None
        assert relative_error(ours, right) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stored", [torch.float16, torch.int8], ids=str)
def test_no_further_from_float64_than_the_formula_in_torch(dtype: torch.dtype, stored: torch.dtype) -> None:
    """Root mean square over draws: of one draw a loss's error in 16 bits is luck, 2e-6 to 2e-4 in twelve."""
    draws = torch.tensor([errors(dtype, stored, seed) for seed in range(8)])
    for name, (ours, eagers) in zip(NAMES, draws.square().mean(0).sqrt().tolist(), strict=True):
        assert ours <= 1.5 * eagers + 1e-6, (name, ours, eagers)
        assert ours <= CAPS[dtype], (name, ours)


def errors(dtype: torch.dtype, stored: torch.dtype, seed: int) -> list[tuple[float, float]]:
    """Relative errors of ours and of the formula, for each result."""
    leaves, targets = make((4, 49, 48), 96, seed)
    scale, packed = None, targets.to(stored)
    if stored == torch.int8:
        scale = targets.abs().amax(-1).float() / 127
        packed = (targets / scale[..., None]).round().to(torch.int8)
    decoded = dequantize(packed, scale, dtype=torch.float64)
    wanted = results(unfused(decoded), leaves, torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        eager = results(unfused(decoded), leaves, torch.float32)
        found = results(lambda *each: lift_mse(*each, packed, scale=scale), leaves, torch.float32)
    return [
        (relative_error(mine, right), relative_error(theirs, right))
        for mine, theirs, right in zip(found, eager, wanted, strict=True)
    ]


def test_the_tokens_exist_where_somebody_asks_for_them() -> None:
    leaves, _ = make((2, 9, 12), 24)
    lifted = lift_tokens(*leaves)
    assert isinstance(lifted, LiftedTokens)
    torch.testing.assert_close(lifted.whole(), written_out(*leaves)[1])
    torch.testing.assert_close(lifted.pooled(), written_out(*leaves)[0])
    one = lift_tokens(leaves[0][0], *leaves[1:])
    torch.testing.assert_close(one.pooled(), written_out(*leaves)[0][0])


def test_tokens_of_16_bits_stay_in_16_bits() -> None:
    leaves, targets = make((2, 9, 12), 24)
    tokens = leaves[0].bfloat16().requires_grad_()
    lifted = lift_tokens(tokens, *(each.float() for each in leaves[1:]))
    assert (lifted.tokens.dtype, lifted.weight.dtype) == (torch.bfloat16, torch.float32)
    lifted.mse(targets.half()).backward()
    assert tokens.grad is not None
    assert tokens.grad.dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_torch_finds_no_fault_with_the_operation() -> None:
    leaves, _ = make((2, 3, 5), 9)
    moments = leaves[1].t() @ leaves[1]
    torch.library.opcheck(lift.unit_variance, (leaves[0].requires_grad_(), moments.requires_grad_(), 1e-5))


def test_there_is_no_second_derivative_to_get_wrong() -> None:
    leaves, _ = make((2, 3, 5), 9)
    tokens = leaves[0].requires_grad_()
    pooled = lift_tokens(tokens, *leaves[1:]).pooled().square().sum()
    (gradient,) = torch.autograd.grad(pooled, tokens, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()


def test_shapes_that_do_not_fit_are_refused() -> None:
    leaves, _ = make((2, 3, 5), 9)
    for position, wrong, message in (
        (0, torch.zeros(2, 3, 5, dtype=torch.int64), "float dtype"),
        (1, torch.zeros(9, 4), r"weight must be \(Dt, 5\), got \(9, 4\)"),
        (2, torch.zeros(8), r"norm_weight must be \(9,\), got \(8,\)"),
        (3, torch.zeros(9, 1), r"norm_bias must be \(9,\), got \(9, 1\)"),
    ):
        given = [wrong if number == position else each for number, each in enumerate(leaves)]
        with pytest.raises(ValueError, match=message):
            lift_tokens(*given)
