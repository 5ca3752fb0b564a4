"""The plain torch forms against float64, in every dtype and shape the cache can hold."""

import pytest
import torch
import torch.nn.functional as F
from kdcache_kernels import dequantize, proj_cosine, proj_mse, proj_smooth_l1
from torch import Tensor

LOSSES = {
    "mse": (proj_mse, lambda p, t: ((p - t) ** 2).mean()),
    "smooth_l1": (proj_smooth_l1, lambda p, t: F.smooth_l1_loss(p, t)),
    "cosine": (proj_cosine, lambda p, t: (1 - (F.normalize(p, dim=-1) * F.normalize(t, dim=-1)).sum(-1)).mean()),
}


def problem(shape: tuple[int, ...], width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    student = torch.randn(*shape, dtype=torch.float64)
    weight = torch.randn(width, shape[-1], dtype=torch.float64) / shape[-1] ** 0.5
    return (
        student,
        weight,
        torch.randn(width, dtype=torch.float64),
        torch.randn(*shape[:-1], width, dtype=torch.float64),
    )


@pytest.mark.parametrize("shape", [(8, 16), (3, 7, 12), (1, 5)], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_equal_float64(name: str, shape: tuple[int, ...]) -> None:
    loss, exact_loss = LOSSES[name]
    student, weight, bias, targets = problem(shape, 24)
    exact_inputs = [each.clone().requires_grad_() for each in (student, weight, bias)]
    exact = exact_loss(F.linear(*exact_inputs), targets)
    exact.backward()
    inputs = [each.float().requires_grad_() for each in (student, weight, bias)]
    found = loss(inputs[0], inputs[1], inputs[2], targets.float())
    found.backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-7)
    for ours, theirs in zip(inputs, exact_inputs, strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-7)


def test_scaled_integers_are_decoded_per_token() -> None:
    student, weight, bias, _ = (each.float() for each in problem((2, 3, 8), 4))
    values = torch.tensor([[[1, -2, 3, 4]] * 3] * 2, dtype=torch.int8)
    scale = torch.tensor([[0.5, 1.0, 2.0]] * 2)
    plain = proj_mse(student, weight, bias, values.float() * scale.unsqueeze(-1))
    torch.testing.assert_close(proj_mse(student, weight, bias, values, scale=scale), plain)
    shift = torch.ones(2, 3)
    torch.testing.assert_close(dequantize(values, scale, shift), values * scale.unsqueeze(-1) + 1)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(5, 4\)"):
        proj_mse(torch.zeros(5, 3), torch.zeros(4, 3), None, torch.zeros(5, 5))
