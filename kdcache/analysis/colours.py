"""The strongest directions of a record's tokens as colours."""

import numpy as np

from kdcache.cache.record import Array


def principal_colours(features: Array) -> Array:
    """The three strongest directions of one record's tokens as red, green and blue.

    Args:
        features: (rows, columns, C).

    Returns: (rows, columns, 3) in [0, 1], each channel stretched over its own range; empty for no
        tokens.
    """
    rows, columns, channels = features.shape
    if not features.size:
        return np.zeros((rows, columns, 3))
    tokens = features.reshape(-1, channels).astype(np.float64)
    tokens -= tokens.mean(axis=0)
    left, strengths, directions = np.linalg.svd(tokens, full_matrices=False)
    count = min(3, len(strengths))
    # A singular vector's sign is arbitrary: fixed here, so that the same record always looks the same.
    largest = np.abs(directions[:count]).argmax(axis=1)
    signs = np.where(directions[np.arange(count), largest] < 0, -1.0, 1.0)
    projected = np.zeros((rows * columns, 3))
    projected[:, :count] = left[:, :count] * strengths[:count] * signs
    low, high = projected.min(axis=0), projected.max(axis=0)
    return ((projected - low) / np.where(high > low, high - low, 1)).reshape(rows, columns, 3)
