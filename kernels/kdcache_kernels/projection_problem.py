"""The inputs of a projected feature loss, in the one shape that every form of it works on."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache_kernels.reference import dequantize

# Tokens whose intermediates exist at a time in the plain torch forms; a GPU wants few launches, each a large one.
CHUNK_TOKENS = 8192
_GPU_CHUNK_TOKENS = 32768


@dataclass(frozen=True)
class Problem:
    """Student tokens S, projection W and b, targets T = scale * values + shift, or T = values @ basis.

    Args:
        student: (N, Ds) or (B, L, Ds), last dimension contiguous.
        weight: (Dt, Ds); products use it rounded to the student's dtype.
        bias: (Dt,).
        values: (N, Dt) as stored, or (N, R) coefficients with a basis; contiguous.
        scale, shift: (N,) or None.
        mask: (N,) bool, or float weights of tokens, or None.
        basis: (R, Dt) with orthonormal rows, or None.
    """

    student: Tensor
    weight: Tensor
    bias: Tensor
    values: Tensor
    scale: Tensor | None
    shift: Tensor | None
    mask: Tensor | None
    basis: Tensor | None

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.values.shape[0]

    @property
    def accumulator(self) -> torch.dtype:
        """What sums are kept in by the plain torch forms."""
        return torch.float64 if self.student.dtype == torch.float64 else torch.float32

    @property
    def rounded_weight(self) -> Tensor:
        """The projection as the products see it, contiguous."""
        return self.weight.to(self.student.dtype).contiguous()

    @property
    def weights(self) -> Tensor | None:
        """The mask as numbers, for kernels."""
        return self.mask if self.mask is None or self.mask.dtype != torch.bool else self.mask.to(self.accumulator)

    def count(self) -> Tensor:
        """Weight of all tokens together, a scalar on the device."""
        if self.mask is None:
            return torch.full((), self.num_tokens, dtype=self.accumulator, device=self.values.device)
        return self.mask.sum(dtype=self.accumulator)

    def inverse_count(self) -> Tensor:
        """One over `count`, 0 where no token is selected: such a batch has loss 0 and no gradient."""
        if self.mask is None:
            return torch.full((), 1 / self.num_tokens, dtype=self.accumulator, device=self.values.device)
        count = self.count()
        return torch.where(count > 0, 1 / count, torch.zeros_like(count))

    def per_token(self, upstream: Tensor, factor: float) -> Tensor:
        """Upstream times a factor over the weight of all tokens, a float32 scalar in as few launches as may be."""
        if self.mask is None:
            return upstream.float() * (factor / self.num_tokens)
        return upstream.float() * self.inverse_count() * factor

    def chunks(self) -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
        """Slices of the tokens with the student's and the decoded targets there, and the mask as (n, 1).

        Targets are in the student's dtype for 16-bit students, as the kernels round them, else in the accumulator's.
        """
        flat = self.student.reshape(-1, self.student.shape[-1])
        size = _GPU_CHUNK_TOKENS if flat.is_cuda else CHUNK_TOKENS
        for first in range(0, self.num_tokens, size):
            part = slice(first, min(first + size, self.num_tokens))
            yield part, flat[part], self._targets(part), None if self.mask is None else self.mask[part, None]

    def _targets(self, part: slice) -> Tensor:
        rounded = self.student.dtype if self.student.dtype.itemsize == 2 else self.accumulator
        values = self.values[part]
        if self.shift is not None:
            scale = None if self.scale is None else self.scale[part]
            return dequantize(values, scale, self.shift[part], dtype=self.accumulator).to(rounded)
        if self.scale is None:
            return values.to(rounded)
        # One pass over the values: what is computed in float32 is rounded where it is written. Types of 8 bits that
        # torch does not promote are exact in 16.
        values = values.to(rounded) if values.dtype.is_floating_point and values.dtype.itemsize == 1 else values
        return torch.mul(values, self.scale[part, None], out=torch.empty_like(values, dtype=rounded))


@dataclass(frozen=True)
class TokenRows:
    """Where the rows of (N, D) or (B, L, D) tokens lie, so that a kernel needs no copy of a slice.

    Args:
        tokens: Last dimension contiguous.
    """

    tokens: Tensor

    def __post_init__(self) -> None:
        if self.tokens.stride(-1) != 1:
            raise ValueError(f"the channels of tokens must be contiguous, got strides {self.tokens.stride()}")

    @property
    def per_batch(self) -> int:
        """Rows that lie at the row stride, before the batch stride comes in."""
        tokens = self.tokens
        if tokens.dim() == 2 or tokens.stride(0) == tokens.shape[1] * tokens.stride(1):
            return tokens.shape[:-1].numel()
        return tokens.shape[1]

    @property
    def batch_stride(self) -> int:
        """Elements between images; 0 when the rows lie as one sequence."""
        return 0 if self.per_batch == self.tokens.shape[:-1].numel() else self.tokens.stride(0)

    @property
    def row_stride(self) -> int:
        """Elements between tokens of one image."""
        return self.tokens.stride(-2)
