import json
from pathlib import Path

import numpy as np
import pytest

from kdcache.cli.main import main
from tests.cli.support import fails
from tests.conftest import GROUP, TEACHER, TEACHER_KWARGS, file_hashes


def test_another_codec(cache_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", str(cache_copy), "--codec", "int8c", "--column", "blocks-1-patch-int8"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"{GROUP}-int8c: converted from {GROUP}, 3 shards written; errors relative to it" in shown
    assert "blocks-1-patch-int8 has 0.00" in shown
    assert f"next: kdcache verify {cache_copy} --group {GROUP}-int8c" in shown
    assert main(["verify", str(cache_copy), "--group", f"{GROUP}-int8c"]) == 0
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "group": f"{GROUP}-int8c",
        "shards_written": 0,
        "shards_skipped": 3,
    }
    assert main(["show", str(cache_copy), "--group", f"{GROUP}-int8c"]) == 0
    assert f"converted from {GROUP}; errors are relative to it" in capsys.readouterr().out
    assert main(["verify", str(cache_copy), "--group", f"{GROUP}-int8c", "--rerun-teacher", "3"]) == 0


def test_one_file_and_back(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tiny_root), "--out", str(tmp_path / "c.h5")]) == 0
    assert "c.h5: 1.29 MB, 3 shards written" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "c.h5"), "--out", str(tmp_path / "back")]) == 0
    assert f"next: kdcache verify {tmp_path / 'back'}" in capsys.readouterr().out
    assert file_hashes(tmp_path / "back") == file_hashes(tiny_root)
    assert main(["convert", str(tmp_path / "c.h5"), "--out", str(tmp_path / "back"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files_written"] == 0


def test_what_cannot_be_meant(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = str(tiny_root), ["--out", str(tmp_path / "c.h5")]
    assert "give one of --codec" in fails(capsys, ["convert", root], code=2)
    assert "give one of --codec" in fails(capsys, ["convert", root, "--codec", "int4", *out], code=2)
    assert "--name would be ignored: give --codec" in fails(capsys, ["convert", root, "--name", "x", *out], code=2)
    assert "wanted the name of a file, such as cache.h5" in fails(
        capsys, ["convert", root, "--out", str(tmp_path / "c")], code=2
    )
    assert "nothing is there" in fails(capsys, ["convert", str(tmp_path / "none"), *out], code=2)
    (tmp_path / "text").write_text("x")
    assert "is no HDF5 file" in fails(capsys, ["convert", str(tmp_path / "text"), *out], code=2)
    assert "is a file; a codec is converted inside a cache" in fails(
        capsys, ["convert", str(tmp_path / "text"), "--codec", "int4"], code=2
    )
    assert "use lower-case letters" in fails(capsys, ["convert", root, "--codec", "int4", "--name", "X Y"], code=2)


def test_features_of_another_program(
    photos: Path, tmp_path: Path, random: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    for image in photos.rglob("*.*"):
        path = tmp_path / "features" / image.relative_to(photos).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, random.standard_normal((17, 24)).astype(np.float32))
    kwargs = [f"{name}={value}" for name, value in TEACHER_KWARGS.items()]
    words = ["convert", str(tmp_path / "features"), "--data", str(photos), "--teacher-kwargs", *kwargs]
    assert "need --teacher" in fails(capsys, words, code=2)
    words += ["--teacher", TEACHER, "--out", str(tmp_path / "c"), "--shard-samples", "3"]
    assert "--group would be ignored" in fails(capsys, [*words, "--group", "g"], code=2)
    assert "name the tap alone" in fails(capsys, [*words, "--codec", "auto"], code=2)
    assert "wanted a folder" in fails(capsys, [*words[:-3], str(tmp_path / "c.h5")], code=2)
    assert main([*words, "--codec", "int8c", "--name", "foreign"]) == 0
    shown = capsys.readouterr().out
    assert "features, with their images, 2 shards written" in shown
    assert "foreign/blocks-1-patch-int8c: " in shown
    assert main(["verify", str(tmp_path / "c")]) == 0
    capsys.readouterr()
    assert main([*words, "--codec", "int8c", "--name", "foreign", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shards_skipped"] == 2
    root = str(tmp_path / "c")
    assert "--tap would be ignored: give --data" in fails(
        capsys, ["convert", root, "--codec", "int4", "--tap", "x"], code=2
    )
    assert "the weights of vit_tiny_patch16_224 came with features" in fails(
        capsys, ["verify", root, "--rerun-teacher", "1"], code=2
    )
