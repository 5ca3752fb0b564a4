from pathlib import Path

from kdcache.reports.blocks import Bullets
from kdcache.reports.inputs import read_inputs
from kdcache.reports.sections.making import making_section
from tests.conftest import GROUP
from tests.reports.looking import blocks_of, cells, tables
from tests.reports.synthetic import write_full
from tests.reports.synthetic_runs import write_run


def test_settings_versions_origins_and_what_was_left_out(tmp_path: Path) -> None:
    section = making_section(read_inputs([write_full(tmp_path / "a")]))
    made, settings = tables(section)
    assert ["ranks", "stored statistics"] in cells(made)
    rows = dict(map(tuple, cells(settings)))
    assert rows["settings.nested.seed"] == "7"
    assert rows["settings.student"] == "none"
    assert rows["versions.torch"] == "2.6.0"
    (left_out,) = [block for block in blocks_of(section) if isinstance(block, Bullets)]
    assert list(left_out.items) == ["Left out: head-logits-fp16: not patch tokens"]


def test_runs_and_caches(tmp_path: Path, tiny_root: Path) -> None:
    run = write_run(tmp_path / "r")
    bare = write_run(tmp_path / "bare")
    (bare / "config.json").unlink()
    section = making_section(read_inputs([run, bare, tiny_root]))
    found = [dict(map(tuple, cells(table))) for table in tables(section)]
    assert found[0]["config.method.name"] == "lift"
    assert found[1][f"groups.{GROUP}.teacher.weights"] == "random"
    assert any(isinstance(block, Bullets) and "No config.json" in block.items[0] for block in blocks_of(section))
