"""A linear layer as the product of two of low rank."""

from typing import Literal, final

import torch
from torch import Tensor, nn

from kdcache.models.build import count_parameters

FactorInit = Literal["svd", "random"]


@final
class FactoredLinear(nn.Sequential):
    """Two linear layers in place of one: in to rank without bias, rank to out with the layer's own bias.

    Args:
        layer: The dense layer, W of (C_out, C_in).
        rank: r.
        init: ``svd``: W = U S V^T gives S_r^½ V_r^T and U_r S_r^½, computed in fp32; ``random``:
            torch's own.

    Attributes:
        in_features, out_features: As of the dense layer.

    Source: arXiv:2412.16719.
    """

    def __init__(self, layer: nn.Linear, rank: int, *, init: FactorInit = "svd") -> None:
        has_bias = layer.bias is not None
        placed = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        first = nn.Linear(layer.in_features, rank, bias=False, **placed)
        second = nn.Linear(rank, layer.out_features, bias=has_bias, **placed)
        with torch.no_grad():
            if init == "svd":
                left, values, right = torch.linalg.svd(layer.weight.float(), full_matrices=False)
                root: Tensor = values[:rank].sqrt()
                first.weight.copy_(root[:, None] * right[:rank])
                second.weight.copy_(left[:, :rank] * root)
            if has_bias:
                second.bias.copy_(layer.bias)
        super().__init__(first, second)
        self.in_features, self.out_features = layer.in_features, layer.out_features


def count_dense_parameters(model: nn.Module) -> int:
    """Number of parameters that a model would have with each of its factored layers as one."""
    total = count_parameters(model)
    for layer in model.modules():
        if isinstance(layer, FactoredLinear):
            factors = sum(each.numel() for name, each in layer.named_parameters() if name.endswith("weight"))
            total += layer.in_features * layer.out_features - factors
    return total
