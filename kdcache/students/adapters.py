"""Low-rank adapters beside frozen linear layers (LoRA, arXiv:2106.09685), for fused projections too."""

import math
from typing import final

import torch
from torch import Tensor, nn


@final
class AdaptedLinear(nn.Module):
    """y = W x + b + B A x with W and b frozen; B starts at zero, so that y starts as it was.

    A projection that computes several at once, such as queries, keys and values, has a pair (A, B) for each.

    Args:
        linear: The layer; its parameters are frozen.
        rank: Of each pair.
        parts: Which of the `num_parts` equal slices of the outputs get a pair.
        num_parts: How many projections the layer holds.

    Source: arXiv:2404.09326's code: no factor alpha / rank, A Kaiming-uniform with a = sqrt(5).
    """

    def __init__(self, linear: nn.Linear, *, rank: int, parts: tuple[int, ...] = (0,), num_parts: int = 1) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.parts, self.num_parts = parts, num_parts
        self.down = nn.Parameter(linear.weight.new_empty(len(parts), rank, linear.in_features))
        self.up = nn.Parameter(linear.weight.new_zeros(len(parts), linear.out_features // num_parts, rank))
        for each in self.down:
            nn.init.kaiming_uniform_(each, a=math.sqrt(5))

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., C_in) to (..., C_out)."""
        outputs = self.linear(inputs)
        slices = list(outputs.chunk(self.num_parts, dim=-1))
        for part, down, up in zip(self.parts, self.down, self.up, strict=True):
            slices[part] = slices[part] + nn.functional.linear(nn.functional.linear(inputs, down), up)
        return slices[0] if self.num_parts == 1 else torch.cat(slices, dim=-1)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One plain layer with W + B A, all of it trainable."""
        weight = self.linear.weight.clone()
        slices = weight.chunk(self.num_parts)
        for part, down, up in zip(self.parts, self.down, self.up, strict=True):
            slices[part].add_(up @ down)
        layer = nn.Linear(
            self.linear.in_features, self.linear.out_features, bias=self.linear.bias is not None,
            device=weight.device, dtype=weight.dtype,
        )  # fmt: skip
        layer.weight.copy_(weight)
        if self.linear.bias is not None:
            layer.bias.copy_(self.linear.bias)
        return layer
