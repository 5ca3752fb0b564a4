"""Second moments of tokens, and the mean spectrum that they hold."""

import torch
from torch import Tensor

from kdcache_kernels.products import symmetric_product, transposed_product
from kdcache_kernels.token_chunks import check_tokens, token_chunks
from kdcache_kernels.token_spectrum import from_half

# Float32 sums of more tokens than this lose digits that the float64 sum of partials keeps.
_CHUNK_TOKENS = 4096
# Values of the chunks that a GPU takes at a time, in few launches: 50,176 tokens of 384 channels and more.
_GPU_VALUES = 2**25


@torch.no_grad()
def second_moment(tokens: Tensor, *, unit_norm: bool = False, weights: Tensor | None = None) -> Tensor:
    """Mean over tokens of x x^T, uncentred.

    Products are summed in float32 over a few thousand tokens and the partial sums in float64 (all in float64 for
    float64 tokens). 16-bit tokens on a GPU go into the product as they are (relative error 1e-5 on an H100, whose
    tensor cores truncate sums); normalised or weighted ones are upcast, some chunks at a time, and follow torch's
    setting of float32 matrix precision; autocast changes nothing. Lengths must lie between 1e-15 and 1e15, or be zero.
    Not differentiable.

    Args:
        tokens: (N, D) or (B, L, D), float; a slice such as ``tokens[:, 1:]`` is not copied as a whole.
        unit_norm: Scale each token to length 1 first; tokens of zeros are then not in the mean.
        weights: (N,) or (B, L), >= 0, or None for 1: the mean is weighted.

    Returns: (D, D), float64, symmetric up to rounding; zeros if no token counts, NaN if a token is not finite.
    Raises: ValueError for no tokens, or shapes or dtypes that do not fit.
    """
    check_tokens(tokens)
    if weights is not None and weights.shape != tokens.shape[:-1]:
        raise ValueError(f"weights must have shape {tuple(tokens.shape[:-1])}, got {tuple(weights.shape)}")
    width = tokens.shape[-1]
    most = _CHUNK_TOKENS * (max(1, _GPU_VALUES // (width * _CHUNK_TOKENS)) if tokens.is_cuda else 1)
    total: Tensor | None = None
    mass: Tensor | int = 0
    shares = None if weights is None else token_chunks(weights.unsqueeze(-1), most)
    for chunk in token_chunks(tokens, most):
        values = chunk.reshape(-1, width)
        share = None if shares is None else next(shares).reshape(-1, 1)
        with torch.autocast(values.device.type, enabled=False):
            partial, counted = _partial(values, unit_norm, share)
        total = partial.double() if total is None else total.add_(partial)
        mass = mass + counted
    assert total is not None
    # Only a mean of nothing has no mass; its total is zero too.
    return total / (mass.where(mass != 0, 1) if isinstance(mass, Tensor) else mass)


def _partial(values: Tensor, unit_norm: bool, share: Tensor | None) -> tuple[Tensor, Tensor | int]:
    if not unit_norm and share is None:
        return _product(values, values), values.shape[0]
    values = values if values.dtype == torch.float64 else values.float()
    mass = values.new_ones(values.shape[0], 1) if share is None else share.to(values.dtype)
    scaled = values * mass
    if unit_norm:
        energy = values.square().sum(-1, keepdim=True)
        inverse = (1 / energy).where(energy < torch.inf, torch.nan)
        scaled = scaled * inverse.where(energy != 0, 0)
        mass = mass.where(energy != 0, 0)
    return _product(scaled, values), mass.sum(dtype=torch.float64)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """``left.T @ right``, (D, D): float32 sums over a chunk of tokens, float64 ones over several chunks."""
    if len(left) <= _CHUNK_TOKENS:
        return symmetric_product(left, right)
    whole = len(left) // _CHUNK_TOKENS * _CHUNK_TOKENS
    chunks = (each[:whole].unflatten(0, (-1, _CHUNK_TOKENS)) for each in (left, right))
    total = transposed_product(*chunks).sum(0, dtype=torch.float64)
    return total if whole == len(left) else total + symmetric_product(left[whole:], right[whole:])


def mean_spectrum_from_second_moment(matrix: Tensor, *, fold: bool = False) -> Tensor:
    """Mean normalised spectral energy of tokens, from the mean of x x^T / |x|^2 alone.

    Equals the energy of `token_spectrum` exactly: bin k is the k-th DFT value, over D, of the sums along the wrapped
    diagonals. Another order of the channels is ``matrix[order][:, order]``, so permutation controls need no tokens.

    Args:
        matrix: (D, D), ``second_moment(tokens, unit_norm=True)``; computed in float64.
        fold: As in `token_spectrum`.

    Returns: (D,) or (D // 2 + 1,), float64.
    Raises: ValueError if the matrix is not square.
    """
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or matrix.numel() == 0:
        raise ValueError(f"matrix must be (D, D), got {tuple(matrix.shape)}")
    width = matrix.shape[0]
    steps = torch.arange(width, device=matrix.device)
    diagonals = matrix.double().gather(0, (steps[:, None] + steps) % width).sum(1)
    return from_half(torch.fft.rfft(diagonals).real / width, width, fold)
