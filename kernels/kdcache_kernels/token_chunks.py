"""Tokens a few thousand at a time, so that what a sweep keeps in memory does not grow with their number."""

from collections.abc import Iterator

import torch
from torch import Tensor


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
