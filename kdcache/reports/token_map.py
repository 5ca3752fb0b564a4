"""One record as a picture: the view, and the teacher's tokens as colours."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from kdcache.analysis.colours import principal_colours
from kdcache.durable import write_file


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
