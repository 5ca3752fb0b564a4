from dataclasses import replace
from pathlib import Path

import msgspec

from kdcache.reports.blocks import Text
from kdcache.reports.inputs import read_inputs
from kdcache.reports.sections.overview import overview_section
from tests.reports.looking import blocks_of, cells, notes, tables
from tests.reports.synthetic import write_demo, write_full, write_stored_only
from tests.reports.synthetic_runs import write_run


def test_the_verdict_comes_first_with_its_numbers_and_caveats(tmp_path: Path) -> None:
    section = overview_section(read_inputs([write_full(tmp_path / "a")]))
    first, *others = blocks_of(section)
    assert isinstance(first, Text)
    assert first.text == "The student has 9 channels; 24 shared components explain 99 %."
    assert first.role == "lead"
    assert any("One seed." in getattr(block, "items", []) for block in others)
    verdict, facts = tables(section)
    assert cells(verdict) == [["teacher's channels", "24"]]
    rows = dict(map(tuple, cells(facts)))
    assert rows["view recipe"] == "rrc-flip: interpolation bicubic, ratio [0.75, 1.333], scale [0.6, 1], size 16"
    assert "one fixed linear map falls short" in verdict.caption
    assert rows["images"] == "3 of 3 images of digits:train read, 2 views of each"
    assert rows["layers"] == "4, from blocks.0/patch (fp16) to blocks.3/patch (fp16)"


def test_each_caution_is_a_paragraph_before_the_verdict(tmp_path: Path) -> None:
    inputs = read_inputs([write_full(tmp_path / "a")])
    [analysis] = inputs.analyses
    found = analysis.analysis.diagnosis
    assert found is not None
    warned = msgspec.structs.replace(
        found, cautions=["few.", "random."], paragraph=f"Caution: few. Caution: random. {found.paragraph}"
    )
    analysis = replace(analysis, analysis=msgspec.structs.replace(analysis.analysis, diagnosis=warned))
    first, second, verdict, *_ = blocks_of(overview_section(replace(inputs, analyses=[analysis])))
    assert [first, second] == [Text("Caution: few.", "note"), Text("Caution: random.", "note")]
    assert verdict == Text(found.paragraph, "lead")


def test_without_a_diagnosis_the_numbers_speak(tmp_path: Path) -> None:
    section = overview_section(read_inputs([write_full(tmp_path / "a", diagnosis=None)]))
    assert "8 components explain 99 %" in getattr(blocks_of(section)[0], "text", "")
    assert "one basis for all it takes 12 of 24" in getattr(blocks_of(section)[0], "text", "")
    assert "No diagnosis of a student" in notes(section)


def test_several_analyses_are_columns(tmp_path: Path) -> None:
    section = overview_section(read_inputs([write_full(tmp_path / "a"), write_stored_only(tmp_path / "b")]))
    assert list(tables(section)[-1].headings) == ["", "inet", "quick"]


def test_runs_alone(tmp_path: Path) -> None:
    (text,) = blocks_of(overview_section(read_inputs([write_demo(tmp_path / "d"), write_run(tmp_path / "r")])))
    assert "3 training runs. Highest top-1 after the last evaluation: 75.00 %" in getattr(text, "text", "")


def test_a_cache_alone(tiny_root: Path) -> None:
    assert "what caches hold" in getattr(blocks_of(overview_section(read_inputs([tiny_root])))[0], "text", "")
