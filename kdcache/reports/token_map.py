"""One record as a picture: the view, and the teacher's tokens as colours."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from kdcache.durable import write_file


def principal_colours(features: np.ndarray) -> np.ndarray:
    """The three strongest directions of one record's tokens as red, green and blue.

    Args:
        features: (rows, columns, C).

    Returns: (rows, columns, 3) in [0, 1], each channel stretched over its own range.
    """
    rows, columns, channels = features.shape
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


def draw_token_map(path: Path, pixels: np.ndarray, features: np.ndarray, title: str) -> None:
    """Write a PNG with the view, its tokens as colours, and the norm of each token.

    Args:
        path: The file.
        pixels: (S, S, 3) uint8.
        features: (rows, columns, C).
        title: One line above.
    """
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    view, colours, norms = figure.subplots(1, 3)
    view.imshow(pixels)
    view.set_title("what the teacher saw")
    colours.imshow(principal_colours(features), interpolation="nearest")
    colours.set_title("tokens: three principal components")
    shown = norms.imshow(np.linalg.norm(features, axis=-1), interpolation="nearest", cmap="viridis")
    norms.set_title("tokens: length")
    figure.colorbar(shown, ax=norms, fraction=0.046)
    for axes in (view, colours, norms):
        axes.set_axis_off()
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_file(path, buffer.getvalue())
