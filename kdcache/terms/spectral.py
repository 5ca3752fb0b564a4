"""SpectralKD (arXiv:2412.19055): the 2-D spectra of the student's maps against a teacher's."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

from kdcache import ops
from kdcache.cache.column import Column
from kdcache.stream.targets import Payload
from kdcache.terms.base import TokenShape
from kdcache.terms.pairs import TokenTerm

_MAP_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@final
@dataclass(frozen=True, kw_only=True)
class Spectral(TokenTerm):
    """Mean squared difference between the real 2-D spectra of two maps of patch tokens.

    Computed without an FFT: it is the mean squared error of the maps with what is constant along
    rows, and what alternates along them, counted twice. Channels of the wider side are averaged to
    the narrower side's number, so no width is refused and nothing is trained.

    Args:
        weight, teacher, student_block, resize, transform: As in `TokenTerm`; every teacher tap is a
            patch tap.
    """

    name: Literal["spectral"] = "spectral"

    def __post_init__(self) -> None:
        super().__post_init__()
        for need in self.needs().teacher:
            if need.kind != "patch":
                raise ValueError(f"the term spectral compares maps of patch tokens, got teacher={need.tap}")

    def make_adapter(self, student: TokenShape, column: Column) -> nn.Module:
        """See TokenTerm. Raises: ValueError for tokens of which no grid is known."""
        if student.grid is None or not column.grid:
            side = "the student's tokens have" if student.grid is None else f"{column.label} has"
            raise ValueError(f"the term spectral needs rows and columns of patch tokens, and {side} no grid")
        grid = (column.grid[0], column.grid[1]) if self.resize == "student" else student.grid
        return nn.Unflatten(1, grid)

    def compare(self, student: Tensor, teacher: Payload, adapter: nn.Module | None) -> Tensor:
        """See TokenTerm."""
        assert adapter is not None, "make_adapter gives one"
        plain = teacher.scale is None and teacher.shift is None and teacher.values.dtype in _MAP_DTYPES
        # The operation reads maps of any strides and half precision where they lie.
        targets = teacher.values if plain else teacher.decode()
        return ops.spectral_align(adapter(student).permute(0, 3, 1, 2), adapter(targets).permute(0, 3, 1, 2))
