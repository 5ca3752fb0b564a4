import re
from pathlib import Path

import pytest

from kdcache.reports.inputs import Inputs, read_inputs
from kdcache.reports.page import render_page
from tests.reports.html import Page
from tests.reports.synthetic import ODD_NAME, everything, write_full, write_odd, write_stored_only
from tests.reports.synthetic_runs import write_run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> Inputs:
    return everything(tmp_path_factory.mktemp("report"), tiny_root)


@pytest.fixture(scope="module")
def text(inputs: Inputs) -> str:
    return render_page(inputs, f"All {ODD_NAME}")


def test_the_page_is_balanced_and_every_figure_has_a_caption(text: str) -> None:
    page = Page(text)
    assert len(page.figures) > 20
    assert all(page.figures)
    assert page.tags.count("h1") == 1
    assert page.tags.count("svg") > 15


def test_ids_are_unique_and_every_reference_is_inside_the_page(text: str) -> None:
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    local = {reference[1:] for reference in page.references if reference.startswith("#")}
    local |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert local <= set(page.ids)
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in page.references)
    assert "://" not in re.sub(r"data:image/png;base64,[\w+/=]*", "", text)
    assert "@import" not in text


def test_nothing_from_a_file_is_html(text: str) -> None:
    assert "<script" not in text
    assert "<b>" not in text
    words = Page(text).words
    assert words.count(ODD_NAME) > 5
    assert f"All {ODD_NAME}" in words


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(inputs: Inputs, text: str) -> None:
    assert render_page(inputs, f"All {ODD_NAME}") == text


def test_figures_follow_the_colour_scheme(text: str) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "currentColor" in figures
    assert "var(--data-0)" in figures
    assert "#010203" not in figures
    assert not re.search(r"#(000000|ffffff)\b", figures)
    assert "font-family" not in figures
    assert "prefers-color-scheme: dark" in text


def test_sections_come_in_order_and_the_contents_name_them_all(text: str) -> None:
    names = re.findall(r'<section id="([^"]*)">', text)
    assert names == [
        "overview", "ranks", "sep", "depth", "spectra", "effective-rank", "token-maps", "codecs", "runs", "times",
        "making",
    ]  # fmt: skip
    assert re.findall(r'<li><a href="#([^"]*)">', text) == names


@pytest.mark.parametrize("write", [write_full, write_stored_only, write_odd, write_run])
def test_each_kind_of_folder_makes_a_page_alone(tmp_path: Path, write: object) -> None:
    assert callable(write)
    page = Page(render_page(read_inputs([write(tmp_path / "one")]), "one"))
    assert all(page.figures)


def test_a_cache_makes_a_page_alone(tiny_root: Path) -> None:
    assert "blocks-1-patch-int8" in Page(render_page(read_inputs([tiny_root]), "cache")).words


def test_the_templates_are_installed_with_the_package() -> None:
    setup = (Path(__file__).parents[2] / "setup.py").read_text()
    assert '"reports/templates/*"' in setup
