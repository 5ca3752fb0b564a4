"""The projected feature losses as a module, and the affine form of a layer-normalised teacher."""

from typing import Literal

import torch
from torch import Tensor, nn

from kdcache_kernels.proj_loss import proj_cosine, proj_mse, proj_smooth_l1
from kdcache_kernels.projection import choice
from kdcache_kernels.projection_problem import Problem

FeatureLossKind = Literal["mse", "smooth_l1", "cosine"]
_LOSSES = {"mse": proj_mse, "smooth_l1": proj_smooth_l1, "cosine": proj_cosine}
_ORTHONORMAL_TOLERANCE = 1e-3
# Tokens whose float32 copies exist at a time.
_CHUNK_TOKENS = 8192


class FeatureLoss(nn.Module):
    """A projection to the teacher's width and the loss behind it, trained with the student and dropped afterwards.

    Args:
        student_width: Ds.
        teacher_width: Dt.
        loss: ``mse``, ``smooth_l1`` or ``cosine``.
        bias: Whether the projection has one.
        normalize_targets: Layer-normalise the teacher's tokens, without parameters (eps 1e-5).
        basis, mean: As in `proj_mse`; for ``mse`` only.

    Raises: ValueError for a basis whose rows are not orthonormal, or options that exclude each other.
    """

    basis: Tensor | None
    mean: Tensor | None

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        *,
        loss: FeatureLossKind = "mse",
        bias: bool = True,
        normalize_targets: bool = False,
        basis: Tensor | None = None,
        mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        if loss not in _LOSSES:
            raise ValueError(f"loss must be one of {', '.join(_LOSSES)}, got {loss!r}")
        if basis is not None:
            _check_basis(basis, teacher_width)
        if (basis is not None or mean is not None) and (loss != "mse" or normalize_targets):
            raise ValueError("basis and mean go with loss='mse' and targets that are not normalised")
        self.loss: FeatureLossKind = loss
        self.normalize_targets = normalize_targets
        self.projection = nn.Linear(student_width, teacher_width, bias=bias)
        self.register_buffer("basis", basis)
        self.register_buffer("mean", mean)

    def forward(
        self,
        tokens: Tensor,
        values: Tensor,
        *,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of student tokens (B, L, Ds) or (N, Ds) against packed targets; arguments as in `proj_mse`."""
        if self.normalize_targets:
            scale, shift = layer_norm_affine(values, scale, shift)
        weight, bias = self.projection.weight, self.projection.bias
        if self.loss != "mse":
            return _LOSSES[self.loss](tokens, weight, bias, values, scale=scale, shift=shift, mask=mask)
        return proj_mse(
            tokens, weight, bias, values, scale=scale, shift=shift, mask=mask, basis=self.basis, mean=self.mean
        )

    def extra_repr(self) -> str:
        """The loss and what is done to the targets."""
        return f"loss={self.loss}" + (", normalize_targets=True" if self.normalize_targets else "")


def layer_norm_affine(
    values: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Scale and shift under which stored targets become the layer-normalised teacher, without decoding them.

    Args:
        values: (..., Dt) as stored.
        scale, shift: Of the codec, (...), or None.
        eps: Added to the variance.

    Returns: scale and shift, (...) float32.
    """
    flat = values.reshape(-1, values.shape[-1])
    moments = [torch.var_mean(part.float(), dim=1, correction=0) for part in flat.split(_CHUNK_TOKENS)]
    variance = torch.cat([each[0] for each in moments]).view(values.shape[:-1])
    mean = torch.cat([each[1] for each in moments]).view(values.shape[:-1])
    # A shift of the codec moves the mean alone, so it cancels.
    factor = torch.ones_like(mean) if scale is None else scale.float()
    normalized = factor * torch.rsqrt(variance * factor.square() + eps)
    return normalized, -normalized * mean


def explain_backend(
    student: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    loss: FeatureLossKind = "mse",
    basis: Tensor | None = None,
) -> str:
    """What would run for these inputs, and why: for example ``torch: KD_KERNELS=torch``.

    Under autocast the loss casts the student first; ask with a student of that dtype.
    """
    values = targets.reshape(-1, targets.shape[-1])
    bias = weight.new_empty(weight.shape[0])
    chosen = choice(Problem(student, weight, bias, values, None, None, None, basis), loss)
    return f"{chosen.form}: {chosen.reason}"


def _check_basis(basis: Tensor, teacher_width: int) -> None:
    if basis.dim() != 2 or basis.shape[1] != teacher_width:
        raise ValueError(f"basis must be (R, {teacher_width}), got {tuple(basis.shape)}")
    products = basis.double() @ basis.double().t()
    error = (products - torch.eye(len(basis), dtype=torch.float64, device=basis.device)).abs().max().item()
    if not error < _ORTHONORMAL_TOLERANCE:
        raise ValueError(f"the rows of basis must be orthonormal, their products are off by {error:.2g}")
