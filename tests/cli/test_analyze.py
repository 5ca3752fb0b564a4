import json
from pathlib import Path

import pytest

from kdcache.analysis.folder import read_analysis
from kdcache.cli.main import main
from tests.cli.support import extract_words, fails
from tests.conftest import GROUP


def test_a_cache(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "analysis"
    words = ["analyze", str(tiny_root), "--out", str(out), "--permutations", "3"]
    assert main([*words, "--student", "deit_tiny_patch16_224"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "vit_tiny_patch16_224, tokens of 20 of 20 images",
        "blocks.1/patch",
        "16 x 24",
        "b90 (noise)",
        "(22)",
        f"left out  {GROUP}/blocks-1-patch-int8: same tap as {GROUP}/blocks-1-patch-fp16, which loses less",
        "views     2 views of each, recipe rrc-flip, 16 px",
        "The teacher's last block (blocks.1/patch) has 24 channels, the student deit_tiny_patch16_224 192.",
        "Caution: 20 images are too few for a verdict",
        "Measured on 20 of 20 images of digits",
        "the first view of each, view recipe rrc-flip at 16 px",
        "reading",
        f"next: kdcache report {out} --out report.html",
    ):
        assert text in shown
    analysis, _ = read_analysis(out)
    assert analysis.diagnosis is not None
    assert analysis.settings["permutations"] == 3
    assert analysis.settings["cache"] == str(tiny_root)
    assert (analysis.source.view_recipe, analysis.source.view["size"]) == ("rrc-flip", 16)
    assert analysis.settings["student"] == {"name": "deit_tiny_patch16_224", "width": 192, "depth": 12}


def test_columns_images_and_json(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", str(tiny_root), "--out", str(tmp_path), "--column", "blocks-1-patch-int8", "--images", "7"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [layer["column"] for layer in found["layers"]] == [f"{GROUP}/blocks-1-patch-int8"]
    assert found["source"]["num_read"] == 7
    assert found["diagnosis"] is None


def test_stored_statistics_alone(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(tiny_root), "--out", str(tmp_path), "--images", "0"]) == 0
    assert "tokens of 0 of 20 images" in capsys.readouterr().out
    analysis, _ = read_analysis(tmp_path)
    assert analysis.layers[0].dynamics is None


@pytest.mark.slow
def test_each_teacher_in_a_folder_of_its_own(
    groups_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["analyze", str(groups_root), "--images", "5", "--permutations", "3", "--out"]
    assert main([*words, str(tmp_path / "both")]) == 0
    shown = capsys.readouterr().out
    widths = {GROUP: 24, "wide": 36}
    assert {path.name for path in (tmp_path / "both").iterdir()} == set(widths)
    for group, width in widths.items():
        folder = tmp_path / "both" / group
        assert f"next: kdcache report {folder} --out report.html" in shown
        layers = read_analysis(folder)[0].layers
        assert {layer.num_channels for layer in layers} == {width}
        assert all(layer.column is not None and layer.column.startswith(f"{group}/") for layer in layers)
    assert main([*words, str(tmp_path / "one"), "--group", "wide"]) == 0
    alone, both = (read_analysis(tmp_path / name)[0] for name in ("one", "both/wide"))
    assert alone.layers == both.layers
    assert alone.source.digest == both.source.digest != read_analysis(tmp_path / "both" / GROUP)[0].source.digest
    assert main([*words, str(tmp_path / "named"), "--column", "wide/blocks-1-patch-int8"]) == 0
    assert read_analysis(tmp_path / "named")[0].layers == alone.layers


def test_a_group_that_is_not_there(groups_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", str(groups_root), "--out", str(tmp_path)]
    message = fails(capsys, [*words, "--group", "narrow"], 2)
    assert "narrow" in message
    assert f"it holds pixels, {GROUP}, wide" in message
    mixed = ["--column", "wide/blocks-1-patch-int8", "--column", f"{GROUP}/blocks-0-patch-fp32"]
    assert "one analysis is of one group" in fails(capsys, [*words, *mixed])


def test_a_folder_that_cannot_be_written_is_found_at_once(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    message = fails(capsys, ["analyze", str(tiny_root), "--out", str(tmp_path / "file")])
    assert "cannot create" in message
    assert "measuring" not in message


def test_a_device_that_is_not_there(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", str(tiny_root), "--out", str(tmp_path), "--device", "cuda:77"]
    assert "cuda:77" in fails(capsys, words, code=2)


def test_stored_statistics_need_no_columns(cache_copy: Path, tmp_path: Path) -> None:
    tars = list(cache_copy.glob(f"{GROUP}/blocks*/*.tar"))
    assert len(tars) == 15
    for tar in tars:
        tar.unlink()
    assert main(["analyze", str(cache_copy), "--out", str(tmp_path), "--images", "0"]) == 0


def test_a_table_of_ranks(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "ranks.csv"
    table.write_text("rank,accuracy\n4,20\n8,50\n16,60\n")
    words = ["analyze", str(tiny_root), "--out", str(tmp_path), "--images", "0", "--rank-table", str(table)]
    assert main([*words, "--teacher-accuracy", "64"]) == 0
    found = read_analysis(tmp_path)[0].effective_rank
    assert found is not None
    assert found.ranks == [4, 8, 16]
    capsys.readouterr()
    assert "go together" in fails(capsys, words, code=2)
    table.write_text("rank,accuracy\n4,20\n")
    assert "three or more" in fails(capsys, [*words, "--teacher-accuracy", "64"], code=2)


def test_a_finished_cache_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "analyze: error" in fails(capsys, ["analyze", str(tmp_path), "--out", str(tmp_path / "out")])


def test_a_cache_of_logits_has_nothing_to_analyse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(extract_words(tmp_path / "cache", "--tap", "head/logits")) == 0
    capsys.readouterr()
    message = fails(capsys, ["analyze", str(tmp_path / "cache"), "--out", str(tmp_path / "out")])
    assert "no column of patch tokens" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of CACHE, --model NAME or --run RUN"),
        (["cache", "--model", "x"], "give one of CACHE"),
        (["cache", "--tap", "blocks.0/patch"], "--tap goes with --model or --run"),
        (["--run", "r", "--weights", "w"], "--weights goes with --model"),
        (["--model", "m", "--column", "c"], "--column goes with CACHE"),
        (["--model", "m"], "--model needs images: --data DATA"),
        (["--model", "m", "--data", "digits", "--images", "0"], "which only a cache has"),
        (["cache", "--images", "many"], "--images many: wanted a number, or all"),
        (["cache", "--student-kwargs", "depth=4"], "--student-kwargs goes with --student"),
        (["cache", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["cache", "--permutations", "-1"], "wanted a number of at least 0, got -1"),
        (["cache", "--seed", "99999999999999999999999"], "seed must be between"),
        (["cache", "--image-size", "0"], "--image-size goes with --model"),
        (["--model", "m", "--data", "d", "--image-size", "0"], "--image-size must be at least 1"),
        (["cache", "--student", "vit_tinny_patch16_224"], "did you mean"),
    ],
)
def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    code = 1 if "--student" in words else 2
    assert message in fails(capsys, ["analyze", *words, "--out", str(tmp_path)], code=code)
