import json
from pathlib import Path

import pytest

from kdcache.cli.main import main
from kdcache.export import onnx
from tests.cli.support import fails
from tests.export.support import finished


@pytest.fixture(scope="module")
def run(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tiny_root, tmp_path_factory.mktemp("export") / "run")


def test_the_whole_way(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(run), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"{tmp_path / 'out'}: model.safetensors, README.md, config.json; " in shown
    loads = f'timm.create_model("local-dir:{tmp_path / "out"}", pretrained=True)'
    assert f"next: import kdcache.students.register; {loads}" in shown
    assert "replace it with --replace, or choose another --out" in fails(capsys, words, code=2)
    assert main([*words, "--replace", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(tmp_path / "out")


def test_what_cannot_be_exported(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert "not the folder of a finished run" in fails(capsys, ["export", str(tmp_path), *out])
    shown = fails(capsys, ["export", str(run), "--weights", "ema", *out])
    assert "averaged weights are those of a finished run with ema_decay" in shown


def test_a_missing_extra(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "_NEEDED", ("not_here",))
        shown = fails(capsys, ["export", str(run), "--onnx", "--out", str(tmp_path / "out")])
    assert "pip install 'kdcache[onnx]'" in shown
