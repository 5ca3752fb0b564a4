"""The accuracy benchmark at toy size: every row runs, a rerun makes what is missing."""

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.accuracy_grid import GRIDS, PAIRS, rows_of
from benchmarks.accuracy_table import differences, interval, markdown, runs_of
from benchmarks.accuracy_teacher import random_crops
from kdcache.images import encode_jpeg


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """16 training and 20 test images of noise, as CIFAR-10 lies in its folder."""
    folder, random = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 16), ("test", 20)):
        with tarfile.open(folder / f"{part}-000.tar", "w") as tar:
            for number in range(count):
                picture = encode_jpeg(random.integers(0, 256, (32, 32, 3), np.uint8), 90)
                for ending, data in (("jpg", picture), ("cls", str(number % 10).encode())):
                    member = tarfile.TarInfo(f"{part}{number}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder


@pytest.mark.slow
def test_every_row_runs_and_a_rerun_makes_what_is_missing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.json"
    words = ["--toy", "--data", str(images), "--work", str(tmp_path / "work"), "--out", str(out), "--device", "cpu"]

    def run(*more: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["benchmarks", "accuracy", *words, *more])
        assert main() == 0, capsys.readouterr().err
        return json.loads(out.read_text())

    first = run("--seeds", "1")
    names = list(rows_of(GRIDS["toy"]))
    assert sorted(each["row"] for each in first["runs"]) == sorted(["teacher", *names])
    bytes_a_view = {each["row"]: each.get("target_bytes_per_view") for each in first["runs"]}
    assert bytes_a_view["none"] == bytes_a_view["lift, online"] == 0
    assert bytes_a_view["logit"] < bytes_a_view["lift, int8"] < bytes_a_view["lift"]
    second = run("--seeds", "2", "--rows", "none;lift")
    assert second["runs"][: len(first["runs"])] == first["runs"]
    assert {(each["row"], each["seed"]) for each in second["runs"][len(first["runs"]) :]} == {("none", 1), ("lift", 1)}
    table = out.with_suffix(".md").read_text()
    assert all(f"| {name} | " in table for name in names)
    assert table.strip() in capsys.readouterr().out


def test_other_settings_and_unknown_rows_are_refused(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.json"
    out.write_text(json.dumps({"grid_name": "reduced", "grid": {}}))
    for more, message in (
        (["--out", str(out)], "choose another --out"),
        (["--out", str(tmp_path / "b.json"), "--rows", "lifted"], "choose from none; logit"),
        (["--out", str(tmp_path / "b.json"), "--data", str(tmp_path)], "no train-NNN.tar.gz"),
    ):
        words = ["--toy", "--data", str(images), "--work", str(tmp_path / "work"), *more]
        monkeypatch.setattr(sys, "argv", ["benchmarks", "accuracy", *words])
        assert main() == 1
        assert message in capsys.readouterr().err


def test_uniform_width_has_the_parameters_of_widelast() -> None:
    """The toy student has width 16, WideLast's last block 32."""
    assert rows_of(GRIDS["toy"])["uniform width"].width in range(18, 32, 2)


def test_differences_are_paired_by_seed() -> None:
    runs = [{"row": "a", "seed": seed, "top1": 50.0 + 10 * seed} for seed in (0, 1, 2)]
    runs += [{"row": "b", "seed": seed, "top1": 49.0 + 10 * seed} for seed in (2, 0)]
    a, b = (runs_of({"runs": runs}, name) for name in "ab")
    assert differences(a, b) == [1.0, 1.0]


def test_the_interval_is_student_t() -> None:
    """Mean 2, sd 1, n 3: half of it is 4.303 / sqrt(3)."""
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))


def test_every_pair_is_of_rows_that_exist() -> None:
    assert {name for pair in PAIRS for name in pair} <= set(rows_of(GRIDS["toy"]))


def test_the_table_leaves_out_what_was_not_run() -> None:
    run = {"row": "none", "seed": 0, "top1": 30.0, "step_ms": 5.0}
    head = {"date": "2026-11-26", "device": "x", "cpu_count": 2, "versions": {}, "grid_name": "toy", "jobs": 1}
    table = markdown({**head, "runs": [run]}, ["none", "logit"], PAIRS)
    assert "| none | 1 | 30.00 | 5.0 |" in table
    assert "logit" not in table


def test_random_crops_stay_inside_the_image() -> None:
    """A ramp from -1 to 1 keeps its direction or is mirrored, and never leaves its range."""
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 32).expand(64, 3, 32, 32)
    crops = random_crops(ramp, (0.5, 1.0))
    rising = crops[..., -1] > crops[..., 0]
    assert crops.shape == ramp.shape
    assert crops.abs().max() <= 1
    assert 0 < rising[:, 0, 0].sum() < 64
