"""Library products of 16-bit matrices whose sums are float32."""

import functools

import torch
from torch import Tensor

# On ROCm such a product cannot give its float32 accumulator away.
_MM_GIVES_FLOAT32 = not torch.version.hip
# Columns from which on a product of half of them runs as fast as the whole.
_WORTH_HALVING = 64


def transposed_product(left: Tensor, right: Tensor) -> Tensor:
    """``left.T @ right`` with sums in at least float32, of matrices or rows of them; on a GPU 16 bits stay as are."""
    if left.dtype == right.dtype and gives_float32(left):
        product = torch.mm if left.dim() == 2 else torch.bmm
        return product(left.mT, right, out_dtype=torch.float32)
    dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    return left.to(dtype).mT @ right.to(dtype)


def symmetric_product(left: Tensor, right: Tensor) -> Tensor:
    """`transposed_product` of (N, D) whose rows are those of the other, scaled: on a CPU a quarter is mirrored."""
    half = left.shape[1] // 2
    if left.is_cuda or half < _WORTH_HALVING:
        return transposed_product(left, right)
    upper = transposed_product(left[:, :half], right)
    lower = transposed_product(left[:, half:], right[:, half:])
    return torch.cat([upper, torch.cat([upper[:, half:].t(), lower], dim=1)])


def own_product(weight: Tensor) -> Tensor:
    """``weight.T @ weight``, float64; exact but for its sums, which are float32 for 16-bit weights on a GPU."""
    if gives_float32(weight):
        return transposed_product(weight, weight).double()
    exact = weight.double()
    return exact.t() @ exact


def in_halves(matrix: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A float64 matrix in a 16-bit type, and what its rounding left in the same type."""
    high = matrix.to(dtype)
    return high, (matrix - high.double()).to(dtype)


def parts_for(tokens: Tensor, matrix: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What `token_product` takes for a small matrix: halves for 16-bit tokens on a GPU, else one of a dtype."""
    return in_halves(matrix.double(), tokens.dtype) if gives_float32(tokens) else (matrix.to(dtype),)


def token_product(tokens: Tensor, parts: tuple[Tensor, ...], out: Tensor | None = None) -> Tensor:
    """``tokens @ matrix`` for a matrix in the parts that `parts_for` made of it: float32 or float64, new or `out`."""
    if not gives_float32(tokens):
        dtype = torch.promote_types(parts[0].dtype, torch.float32)
        return torch.mm(tokens.to(dtype), parts[0].to(dtype), out=out)
    products = [torch.mm(tokens, part, out_dtype=torch.float32) for part in parts]
    product = products[0] if len(products) == 1 else products[0].add_(products[1])
    return product if out is None else out.copy_(product)


def gives_float32(tokens: Tensor) -> bool:
    """Whether products of 16-bit matrices like this one come with their float32 sums."""
    return tokens.is_cuda and tokens.dtype.itemsize == 2 and _MM_GIVES_FLOAT32


def multiplies_bfloat16(tokens: Tensor) -> bool:
    """Whether these are bfloat16 on a CPU that multiplies such numbers: twice as fast as float32, results rounded."""
    return tokens.device.type == "cpu" and tokens.dtype == torch.bfloat16 and _has_bfloat16_products()


@functools.cache
def _has_bfloat16_products() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
