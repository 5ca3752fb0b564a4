"""Some views beside their tokens as colours."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from kdcache.reports.blocks import Block, Gallery, Picture, Section, Text
from kdcache.reports.inputs import AnalysisInput


def token_maps_section(analyses: Sequence[AnalysisInput]) -> Section | None:
    """The records of each analysis that were drawn; None without an analysis."""
    if not analyses:
        return None
    blocks: list[Block] = []
    for each in analyses:
        colours = each.curves.get("records/colours")
        if colours is None or not len(colours):
            blocks.append(
                Text(
                    f"No token maps of {each.label}: they need an analysis that reads records, and tokens on a grid.",
                    "note",
                )
            )
        else:
            blocks.append(_gallery(each, colours))
    return Section("token-maps", "Token maps", blocks)


def _gallery(each: AnalysisInput, colours: np.ndarray) -> Gallery:
    pixels = each.curves.get("records/pixels")
    keys = [_key_text(key) for key in each.curves.get("records/keys", np.array([]))]
    entries: list[tuple[str, list[Picture]]] = []
    for at, colour in enumerate(colours):
        key = keys[at] if at < len(keys) else f"record {at}"
        levels = np.round(255 * np.clip(np.nan_to_num(colour), 0, 1)).astype(np.uint8)
        tokens = Picture(_png(levels), f"tokens of {key}")
        view = [Picture(_png(pixels[at]), f"view of {key}")] if pixels is not None and at < len(pixels) else []
        entries.append((key, [*view, tokens]))
    without = (
        ""
        if pixels is not None
        else " The views are not here: the cache refers to its images, and the analysis was not given them."
    )
    layer = each.analysis.layers[-1].name if each.analysis.layers else "the last layer"
    return Gallery(
        entries,
        f"{each.label}: what the teacher saw, and its tokens of {layer} as colours. Red, green and blue are the three "
        f"strongest directions of that record, so colours mean nothing between records.{without}",
    )


def _key_text(key: bytes | str) -> str:
    return key if isinstance(key, str) else key.decode("utf-8", "replace")


def _png(pixels: np.ndarray) -> str:
    """(rows, columns, 3) uint8 as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
