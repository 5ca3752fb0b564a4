"""SpectralKD's alignment loss between feature maps, without an FFT."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache_kernels import dispatch
from kdcache_kernels.tracing import gradients_by, needs_operator, without_operator

_KERNELS = ("spectral_align", "spectral_align_grad")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def spectral_align(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference of the maps' real 2-D spectra, real and imaginary parts apart.

    By Parseval this is ``(sum d^2 + sum_h R_h^2 / W + [W even] sum_h A_h^2 / W) / (4 B C H (W // 2 + 1))`` with d the
    difference, R_h its sum along a row and A_h its alternating sum: the spatial mean squared error, with what the FFT's
    two self-conjugate columns hold counted twice. Where channels differ, the wider map is pooled to the narrower by
    adaptive averages over channels. Computed in float32 (float64 if either map is), the gradient goes to the student
    only, once (no double backward), and takes the upstream gradient before it is rounded to the student's dtype.

    Args:
        student_map: (B, C_s, H, W), float, of any strides: ``tokens[:, 1:].unflatten(1, (H, W)).permute(0, 3, 1, 2)``
            is read as it lies.
        teacher_map: (B, C_t, H, W), float, likewise; gets no gradient.

    Returns: scalar float32 or float64.
    Raises: ValueError for shapes or dtypes that do not fit.
    Source: arXiv:2412.19055.
    """
    if student_map.dim() != 4 or student_map.numel() == 0:
        raise ValueError(f"student_map must be (B, C_s, H, W) and not empty, got shape {tuple(student_map.shape)}")
    batch, _, height, width = student_map.shape
    wanted = (batch, *teacher_map.shape[1:2], height, width)
    if teacher_map.shape != wanted or teacher_map.numel() == 0:
        raise ValueError(
            f"teacher_map must be ({batch}, C_t, {height}, {width}) as the student's, got {tuple(teacher_map.shape)}; "
            "resize one of the grids"
        )
    for name, each in (("student_map", student_map), ("teacher_map", teacher_map)):
        if each.dtype not in _FLOATS:
            raise ValueError(f"{name} must be float16, bfloat16, float32 or float64, got {each.dtype}; decode it first")
    if needs_operator(student_map, teacher_map):
        return _spectral_align(student_map, teacher_map.detach())
    return _SpectralAlign.apply(student_map, teacher_map.detach())


@torch.library.custom_op("kd::spectral_align", mutates_args=())
def _spectral_align(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    return _loss(student_map, teacher_map)


def _loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    configs = _triton_configs(student_map, teacher_map)
    if configs:
        from kdcache_kernels.device.spectral_align import launch

        with torch.cuda.device_of(student_map):
            total = launch(student_map, teacher_map, configs["spectral_align"]).sum(dtype=torch.float64)
        return (total / (2 * _spread(student_map, teacher_map))).float()
    difference = _difference(student_map, teacher_map)
    total = (difference * _with_columns(difference)).sum()
    return total / (2 * _spread(student_map, teacher_map))


@_spectral_align.register_fake
def _(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    return student_map.new_empty((), dtype=_compute_dtype(student_map, teacher_map))


@torch.library.custom_op("kd::spectral_align_grad", mutates_args=())
def _spectral_align_grad(upstream: Tensor, student_map: Tensor, teacher_map: Tensor) -> Tensor:
    return _gradient(upstream, student_map, teacher_map)


def _gradient(upstream: Tensor, student_map: Tensor, teacher_map: Tensor) -> Tensor:
    configs = _triton_configs(student_map, teacher_map)
    factor = 1 / _spread(student_map, teacher_map)
    if configs:
        from kdcache_kernels.device.spectral_align_grad import launch

        with torch.cuda.device_of(student_map):
            return launch(upstream, student_map, teacher_map, factor, configs["spectral_align_grad"])
    gradient = _with_columns(_difference(student_map, teacher_map)).mul_(factor * upstream)
    gradient, placed = _unpooled(gradient, student_map.shape[1]), torch.empty_like(student_map)
    is_in_place = gradient.dtype == placed.dtype and gradient.stride() == placed.stride()
    return gradient if is_in_place else placed.copy_(gradient)


@_spectral_align_grad.register_fake
def _(upstream: Tensor, student_map: Tensor, teacher_map: Tensor) -> Tensor:
    return torch.empty_like(student_map)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None]:
    tensors = upstream, *ctx.saved_tensors
    return gradients_by(_spectral_align_grad, _gradient, *tensors)(*tensors), None


_spectral_align.register_autograd(_backward, setup_context=_setup_context)
_SpectralAlign = without_operator(_loss, _setup_context, _backward)


def _triton_configs(student_map: Tensor, teacher_map: Tensor) -> dict[str, dispatch.Config]:
    """Launch settings of both kernels; empty where plain torch runs."""
    if _compute_dtype(student_map, teacher_map) == torch.float64:
        return {}
    width = student_map.shape[1]
    operation = f"spectral_align {width} and {teacher_map.shape[1]}"
    choice = dispatch.noted(operation, dispatch.choose(_KERNELS, student_map, width))
    return dict(choice.configs) if choice.form == "triton" else {}


def _compute_dtype(student_map: Tensor, teacher_map: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (student_map.dtype, teacher_map.dtype) else torch.float32


def _spread(student_map: Tensor, teacher_map: Tensor) -> int:
    """Real and imaginary parts of all bins: 2 B C H (W // 2 + 1)."""
    batch, channels, height, width = student_map.shape
    return 2 * batch * min(channels, teacher_map.shape[1]) * height * (width // 2 + 1)


def _difference(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    channels, dtype = min(student_map.shape[1], teacher_map.shape[1]), _compute_dtype(student_map, teacher_map)
    return _pooled(student_map.to(dtype), channels) - _pooled(teacher_map.to(dtype), channels)


def _with_columns(difference: Tensor) -> Tensor:
    """The difference d plus (R + s A) / W, whose product with d is ``sum d^2 + sum R^2 / W + sum A^2 / W``.

    With s = 1 for even columns and -1 for odd ones that is 2 / W times the sum over the columns of the same parity,
    and without A, where W is odd, 1 / W times the sum over all.
    """
    width = difference.shape[-1]
    step = 2 - width % 2
    columns = difference.unflatten(-1, (-1, step))
    return torch.add(columns, columns.sum(-2, keepdim=True), alpha=step / width).flatten(-2)


def _pooled(maps: Tensor, channels: int) -> Tensor:
    if maps.shape[1] == channels:
        return maps
    ratio, rest = divmod(maps.shape[1], channels)
    if not rest and maps.device.type == "cpu":  # torch's pooling of channels takes ten times as long there
        total = maps[:, ::ratio] + maps[:, 1::ratio]
        for number in range(2, ratio):
            total += maps[:, number::ratio]
        return total.div_(ratio)
    _, _, height, width = maps.shape
    return F.adaptive_avg_pool3d(maps.unsqueeze(1), (channels, height, width)).squeeze(1)


def _unpooled(gradient: Tensor, channels: int) -> Tensor:
    """Gradient of the map that was pooled; gathered, since torch's own backward of this pooling adds atomically."""
    narrow = gradient.shape[1]
    if channels == narrow:
        return gradient
    wide = torch.arange(channels, device=gradient.device)
    # A channel lies in one averaged window or in two that overlap there.
    first = wide * narrow // channels
    last = ((wide + 1) * narrow + channels - 1) // channels - 1
    window = torch.arange(narrow, device=gradient.device)
    sizes = ((window + 1) * channels + narrow - 1) // narrow - window * channels // narrow
    gradient = gradient / sizes[:, None, None]
    second = gradient[:, last] * (last != first)[:, None, None]
    return gradient[:, first] + second
