from pathlib import Path

import msgspec

from kdcache.reports.inputs import read_inputs
from kdcache.reports.sections.ranks import ranks_section
from tests.reports.looking import cells, notes, plots, tables
from tests.reports.synthetic import analysis, layer, layer_curves, source, write_analysis, write_full, write_stored_only
from tests.reports.synthetic_runs import COLUMN, write_run


def test_dimensions_stand_beside_their_share_and_the_centred_ones(tmp_path: Path) -> None:
    section = ranks_section(read_inputs([write_full(tmp_path / "a")]).analyses)
    dimensions, published, beside = tables(section)
    assert cells(dimensions)[0] == ["inet", "blocks.0/patch (fp16)", "24", "5 / 6 / 7 / 8", "9 / 10 / 11 / 12"]
    assert len(dimensions.rows) == 4
    assert len(published.rows) == 14
    assert cells(beside)[0][1:4] == ["16", "8 (50.0 %)", "8 (50.0 %)"]
    assert len(plots(section)) == 8
    assert all("9 channels of narrow_student" in plot.svg for plot in plots(section))
    assert notes(section) == ""


def test_a_published_teacher_stands_beneath_its_last_layer(tmp_path: Path) -> None:
    wide = [msgspec.structs.replace(layer(number), num_channels=384, num_tokens=196) for number in (22, 23)]
    found = analysis(wide, source=source("c", teacher="cait_s24_224"))
    write_analysis(tmp_path / "cait", found, layer_curves(0, with_records=True))
    dimensions = tables(ranks_section(read_inputs([tmp_path / "cait"]).analyses))[0]
    assert [row.is_reference for row in dimensions.rows] == [False, False, True]
    published = cells(dimensions)[2]
    assert published == ["published: CaiT-S24", "last", "384", "14 / 34 / 61 / 121", "167 / 247 / 302 / 359"]


def test_students_of_runs_are_marked_where_no_student_was_asked_for(tmp_path: Path) -> None:
    layers = [msgspec.structs.replace(layer(1), column=COLUMN), layer(2)]
    curves = {name: each for at in range(2) for name, each in layer_curves(at, with_records=True).items()}
    write_analysis(tmp_path / "a", analysis(layers), curves)
    inputs = read_inputs([tmp_path / "a", write_run(tmp_path / "r"), write_run(tmp_path / "n", method="logit")])
    last, before = (plots(ranks_section(inputs.analyses, inputs.runs))[at : at + 2] for at in (0, 2))
    assert all("6 channels of vit_tiny_patch16_224" in plot.svg for plot in before)
    assert not any("channels of" in plot.svg.split("<title")[0] and "vit_tiny" in plot.svg for plot in last)


def test_what_stored_statistics_lack_is_said(tmp_path: Path) -> None:
    section = ranks_section(read_inputs([write_stored_only(tmp_path / "s")]).analyses)
    assert "No ranks of quick, blocks.1/patch" in notes(section)
    assert "No ranks in a shared basis of quick, blocks.0/patch" in notes(section)
    assert "an analysis that reads records" in notes(section)


def test_several_analyses_share_a_figure(tmp_path: Path) -> None:
    folders = [write_full(tmp_path / name, path=f"caches/{name}") for name in ("one", "two")]
    found = plots(ranks_section(read_inputs(folders).analyses))
    assert "one" in found[0].svg
    assert "two" in found[0].svg


def test_none_without_an_analysis() -> None:
    assert ranks_section([]) is None
