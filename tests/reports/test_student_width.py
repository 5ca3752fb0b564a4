import json
from pathlib import Path

import msgspec

from kdcache.reports.inputs import read_inputs
from kdcache.reports.student_width import block_widths, student_widths
from tests.reports.synthetic import analysis, layer, write_analysis, write_full
from tests.reports.synthetic_runs import COLUMN, write_run


def test_channels_of_each_block_before_a_change(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", method="widelast")
    assert block_widths(read_inputs([folder]).runs[0]) == (6, 6)
    record = json.loads((folder / "config.json").read_text())
    for student, widths in (("resnet18", (64, 64, 128, 256, 512)), ("hf-hub:x/y", None), ("no_such_model", None)):
        record["config"] |= {"student": student, "student_kwargs": {}}
        (folder / "config.json").write_text(json.dumps(record))
        assert block_widths(read_inputs([folder]).runs[0]) == widths
    (folder / "config.json").unlink()
    assert block_widths(read_inputs([folder]).runs[0]) is None


def test_the_student_of_the_diagnosis_comes_first(tmp_path: Path) -> None:
    inputs = read_inputs([write_full(tmp_path / "a"), write_run(tmp_path / "r")])
    assert student_widths(inputs.analyses[0], COLUMN, inputs.runs) == {"narrow_student": 9}
    write_analysis(tmp_path / "b", analysis([msgspec.structs.replace(layer(0), column=COLUMN)]), {})
    (without,) = read_inputs([tmp_path / "b"]).analyses
    assert student_widths(without, COLUMN, inputs.runs) == {"vit_tiny_patch16_224": 6}
    assert student_widths(without, "another", inputs.runs) == {}
    assert student_widths(without, "", inputs.runs) == {}
