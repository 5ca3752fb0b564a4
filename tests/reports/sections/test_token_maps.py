import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from kdcache.analysis.folder import read_analysis
from kdcache.reports.blocks import Gallery
from kdcache.reports.inputs import read_inputs
from kdcache.reports.sections.token_maps import token_maps_section
from tests.reports.looking import blocks_of, notes
from tests.reports.synthetic import ODD_NAME, write_full, write_odd, write_stored_only


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_views_stand_beside_their_tokens(tmp_path: Path) -> None:
    folder = write_full(tmp_path / "a")
    (gallery,) = blocks_of(token_maps_section(read_inputs([folder]).analyses))
    assert isinstance(gallery, Gallery)
    assert [name for name, _ in gallery.entries] == ["digit-0001", ODD_NAME, "digit-0003"]
    curves = read_analysis(folder)[1]
    view, tokens = gallery.entries[1][1]
    np.testing.assert_array_equal(pixels_of(view.uri), curves["records/pixels"][1])
    np.testing.assert_allclose(pixels_of(tokens.uri) / 255, curves["records/colours"][1], atol=0.5 / 255 + 1e-9)
    assert view.text == f"view of {ODD_NAME}"


def test_without_the_views_the_tokens_stand_alone(tmp_path: Path) -> None:
    (gallery,) = blocks_of(token_maps_section(read_inputs([write_odd(tmp_path / "a")]).analyses))
    assert isinstance(gallery, Gallery)
    assert len(gallery.entries[0][1]) == 1
    assert "the analysis was not given them" in gallery.caption


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    assert "No token maps of quick" in notes(
        token_maps_section(read_inputs([write_stored_only(tmp_path / "a")]).analyses)
    )
    assert token_maps_section([]) is None
