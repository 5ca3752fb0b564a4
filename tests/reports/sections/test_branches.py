from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from kdcache.analysis.result import BranchSpectrum
from kdcache.reports.inputs import AnalysisInput, Inputs, read_inputs
from kdcache.reports.page import render_page
from kdcache.reports.sections.branches import branches_section
from tests.reports.looking import plots
from tests.reports.synthetic import write_full


def spectrum(block: str, count: int) -> BranchSpectrum:
    frequency = [number / (2 * (count - 1)) for number in range(count)]
    return BranchSpectrum(
        block=block, frequency=frequency, shallow=[-3 * each for each in frequency], deep=[-each for each in frequency]
    )


def with_branches(path: Path) -> AnalysisInput:
    [found] = read_inputs([write_full(path)]).analyses
    branches = [spectrum("stages.0.a", 9), spectrum("stages.0.b", 9), spectrum("stages.1.a", 5)]
    return replace(found, analysis=msgspec.structs.replace(found.analysis, branches=branches))


def test_a_figure_for_each_resolution(tmp_path: Path) -> None:
    section = branches_section([with_branches(tmp_path / "a")])
    assert section is not None
    first, second = plots(section)
    assert first.caption.startswith("stages.0.a to stages.0.b: mean over the blocks")
    assert second.caption.startswith("stages.1.a to stages.1.a")
    for name in ("shallow branch, one convolution", "deep branch, two convolutions"):
        assert first.svg.count(f"{name}</text>") == 1
    assert "more high frequency than the shallow one in 3 of 3 multi-depth blocks" in section.blocks[0].text


@pytest.mark.slow
def test_the_page_holds_it(tmp_path: Path) -> None:
    page = render_page(Inputs([with_branches(tmp_path / "a")], [], []), "t")
    assert 'id="branches"' in page


def test_none_without_branches(tmp_path: Path) -> None:
    assert branches_section([]) is None
    assert branches_section(read_inputs([write_full(tmp_path / "a")]).analyses) is None
