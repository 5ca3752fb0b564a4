"""One record as a picture: the view, and the teacher's tokens as colours."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdcache.analysis.colours import principal_colours
from kdcache.durable import write_file

# As far from white paper as from a dark page (contrast 4.3): the picture itself has no background.
_INK = "#7a7a7a"
_POINTS = 19


def draw_token_map(path: Path, pixels: np.ndarray, features: np.ndarray, title: str) -> None:
    """Write a PNG with the view, its tokens as colours, and the norm of each token.

    The background is transparent and the words grey, for light and dark pages; they are large enough to be read where
    the picture is shrunk to a phone's width.

    Args:
        path: The file.
        pixels: (S, S, 3) uint8.
        features: (rows, columns, C).
        title: Lines above, of about 55 letters each.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    view, colours, norms = figure.subplots(1, 3)
    view.imshow(pixels)
    view.set_title("the teacher's view")
    colours.imshow(principal_colours(features), interpolation="nearest")
    colours.set_title("its tokens")
    shown = norms.imshow(np.linalg.norm(features, axis=-1), interpolation="nearest", cmap="viridis")
    norms.set_title("their lengths")
    scale = figure.colorbar(shown, ax=norms, fraction=0.046, ticks=MaxNLocator(4))
    scale.ax.tick_params(labelsize=_POINTS, colors=_INK)
    scale.outline.set_visible(False)
    for axes in (view, colours, norms):
        axes.set_axis_off()
        axes.title.set(fontsize=_POINTS, color=_INK)
    figure.suptitle(title, fontsize=_POINTS, color=_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, transparent=True)
    write_file(path, buffer.getvalue())
