"""Tokens a few thousand at a time, so that what a sweep keeps in memory does not grow with their number."""

from collections.abc import Iterator

import torch
from torch import Tensor

# What one array of a chunk may take in the plain torch forms. On a CPU the three or four arrays of a chunk then stay in
# the caches, and each thread has as many; a GPU takes a whole batch of a ViT at once, 50,176 tokens of 1,024 channels,
# in few launches.
_CACHED_BYTES, _MOST_CPU_BYTES, _GPU_BYTES = 2**21, 2**25, 2**28


def tokens_at_once(width: int, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens that a plain torch form takes at a time.

    Args:
        width: Channels of the widest array.
        dtype: Of its sums.
        device: Where it is computed.
    """
    limit = _GPU_BYTES if device.type == "cuda" else min(_CACHED_BYTES * torch.get_num_threads(), _MOST_CPU_BYTES)
    return max(1, limit // (width * dtype.itemsize))


def token_chunks(tokens: Tensor, most: int) -> Iterator[Tensor]:
    """Views of (b, l, D) in token order, each of at most `most` tokens.

    Args:
        tokens: (N, D) or (B, L, D), of any strides.
        most: At least 1.
    """
    batches = tokens.unsqueeze(0) if tokens.dim() == 2 else tokens
    for group in batches.split(max(1, most // batches.shape[1])):
        yield from group.split(most, dim=1)


def check_tokens(tokens: Tensor) -> None:
    """Raises: ValueError unless these are one token or more, of one channel or more, of a float dtype of 16 bits up."""
    if tokens.dim() not in (2, 3) or tokens.numel() == 0:
        raise ValueError(f"tokens must be (N, D) or (B, L, D) and not empty, got shape {tuple(tokens.shape)}")
    if tokens.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"tokens must be float16, bfloat16, float32 or float64, got {tokens.dtype}; decode them first")
