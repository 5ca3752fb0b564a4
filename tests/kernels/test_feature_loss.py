"""The module around the projected losses."""

import pytest
import torch
import torch.nn.functional as F
from kdcache_kernels import FeatureLoss, explain_backend, layer_norm_affine

from tests.kernels.problems import make


def module(**options: object) -> FeatureLoss:
    torch.manual_seed(0)
    return FeatureLoss(12, 24, **options)


@pytest.mark.parametrize("loss", ["mse", "smooth_l1", "cosine"])
@pytest.mark.parametrize("normalize", [False, True])
def test_it_projects_and_compares(loss: str, normalize: bool) -> None:
    inputs = make((2, 5, 12), 24, torch.float32)
    feature_loss = module(loss=loss, normalize_targets=normalize)
    wanted = F.layer_norm(inputs.targets, (24,)) if normalize else inputs.targets
    projected = feature_loss.projection(inputs.student)
    by_hand = {
        "mse": lambda: F.mse_loss(projected, wanted),
        "smooth_l1": lambda: F.smooth_l1_loss(projected, wanted),
        "cosine": lambda: (1 - F.cosine_similarity(projected, wanted, dim=-1)).mean(),
    }[loss]()
    torch.testing.assert_close(feature_loss(inputs.student, inputs.targets), by_hand)


def test_principal_components_travel_with_it() -> None:
    basis = torch.linalg.qr(torch.randn(24, 6, generator=torch.Generator().manual_seed(0)))[0].t().contiguous()
    feature_loss = module(basis=basis, mean=torch.ones(24))
    assert {"basis", "mean", "projection.weight", "projection.bias"} == set(feature_loss.state_dict())
    tokens, coefficients = torch.randn(5, 12), torch.randn(5, 6)
    by_hand = F.mse_loss(feature_loss.projection(tokens), coefficients @ basis + 1)
    torch.testing.assert_close(feature_loss(tokens, coefficients), by_hand)


def test_mistakes_are_named() -> None:
    for options, message in (
        ({"loss": "l2"}, "mse, smooth_l1, cosine"),
        ({"basis": torch.ones(2, 24)}, "orthonormal, their products are off by 2"),
        ({"basis": torch.eye(3)}, r"basis must be \(R, 24\)"),
        ({"mean": torch.ones(24), "loss": "cosine"}, "loss='mse'"),
        ({"basis": torch.eye(24), "normalize_targets": True}, "not normalised"),
    ):
        with pytest.raises(ValueError, match=message):
            module(**options)


@pytest.mark.parametrize("scaled", [False, True])
def test_affine_of_a_layer_normed_teacher(scaled: bool) -> None:
    values = torch.randn(3, 4, 24) * 5 + 2
    factor, offset = (torch.rand(3, 4) + 0.5, torch.randn(3, 4)) if scaled else (None, None)
    decoded = values if factor is None or offset is None else values * factor[..., None] + offset[..., None]
    scale, shift = layer_norm_affine(values, factor, offset)
    normed = values * scale[..., None] + shift[..., None]
    torch.testing.assert_close(normed, F.layer_norm(decoded, (24,)), rtol=1e-4, atol=1e-5)


def test_it_says_what_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    student, weight, targets = torch.zeros(4, 12), torch.zeros(24, 12), torch.zeros(4, 24)
    monkeypatch.setenv("KD_KERNELS", "torch")
    assert explain_backend(student, weight, targets) == "torch: KD_KERNELS=torch"
    monkeypatch.setenv("KD_KERNELS", "auto")
    assert explain_backend(student.double(), weight, targets).startswith("torch: library products serve")
    assert "mse" in repr(module())
