"""The inputs of a projected feature loss, in the one shape that every form of it works on."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache_kernels.token_chunks import tokens_at_once


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
        """Upstream times a factor over the weight of all tokens, a scalar, in few launches."""
        upstream = upstream.to(self.accumulator)
        if self.mask is None:
            return upstream * (factor / self.num_tokens)
        return upstream * self.inverse_count() * factor

    @property
    def chunk_tokens(self) -> int:
        """Tokens that the plain torch forms take at a time."""
        widest = max(self.values.shape[1], self.student.shape[-1])
        return tokens_at_once(widest, self.accumulator, self.student.device)

    def parts(self) -> Iterator[slice]:
        """The chunks."""
        for first in range(0, self.num_tokens, self.chunk_tokens):
            yield slice(first, min(first + self.chunk_tokens, self.num_tokens))

    def weights_of(self, part: slice) -> Tensor | None:
        """The mask of a chunk as numbers, (n,)."""
        return None if self.mask is None else self.mask[part].to(self.accumulator)

    def decoded(self, part: slice, space: Tensor | None = None) -> Tensor:
        """Stored targets (n, Dt) of a chunk, decoded; any float type that torch promotes.

        Args:
            part: Which tokens.
            space: (n, Dt) in the accumulator's type, to decode into: targets are then of that type, and
                returned as they lie where they need no decoding.
        """
        values, dtype = self.values[part], self.accumulator
        if space is not None:
            # First converted, then scaled: on a CPU an operation on two types takes longer than both.
            values = values if values.dtype == dtype else space.copy_(values)
        elif not self._promotes(values):
            values = values.to(dtype)
        if self.scale is not None:
            values = torch.mul(values, self.scale[part, None], out=space)
        if self.shift is not None:
            values = torch.add(values, self.shift[part, None], out=space)
        return values

    def _promotes(self, values: Tensor) -> bool:
        """Whether torch computes with these and the accumulator's type as with numbers of the latter."""
        is_scaled_integer = self.scale is not None and not values.dtype.is_floating_point
        return is_scaled_integer or values.dtype in (torch.float16, torch.bfloat16, torch.float32, self.accumulator)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Student tokens, stored values, and mask (n, 1) of each chunk.

        Values are decoded to the student's dtype for 16-bit students, as the kernels round them,
        else to the accumulator's.
        """
        flat = self.student.reshape(-1, self.student.shape[-1])
        rounded = self.student.dtype if self.student.dtype.itemsize == 2 else self.accumulator
        for part in self.parts():
            mask = None if self.mask is None else self.mask[part, None]
            yield flat[part], self.decoded(part).to(rounded), mask


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
