"""Benchmarks stay runnable: each at toy size."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.codecs import mark_dominated
from benchmarks.record import spread
from benchmarks.replay import WAYS, WORKLOADS
from kdcache.cache import Cache
from kdcache.images import decode_jpeg, decode_pixels, encode_jpeg, jpeg
from kdcache.views import ViewParams, replay_view
from tests.kernels.conftest import triton_form as triton_form  # the fixture


@pytest.mark.slow
def test_the_teacher_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--teacher",
        "vit_tiny_patch16_224",
        "--limit",
        "2",
        "--views",
        "1",
        "--repeats",
        "2",
        "--scratch",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "teacher_pass", *words, "--out", str(tmp_path / "r.json")])
    assert main() == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["pass_over_bare"]["repeats"] == 2
    assert set(result["stage_shares"]) == {"read", "compute", "write"}
    assert "whole pass, views/s" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.slow
def test_the_streaming_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["kdcache", "kdcache without extension", "np.memmap", "webdataset"]
    words = ["--toy", "--repeats", "1", "--cold", "1", "--seconds", "0.01", "--loaders", ";".join(names)]
    out = tmp_path / "s.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "streaming", *words, "--out", str(out)])
    assert main() == 0
    result = json.loads(out.read_text())
    cases = {(row["loader"], row["workload"], row["order"]) for row in result["loaders"]}
    every = {(name, workload, order) for name in names for workload in "ABC" for order in ("sequential", "shuffled")}
    assert cases == every - {("np.memmap", "C", "sequential"), ("np.memmap", "C", "shuffled")}
    assert all(row["batches_per_epoch"] > 0 for row in result["loaders"])
    assert [error for error in result["errors"] if "workload" in error] == []
    table = out.with_suffix(".md").read_text()
    assert "| kdcache without extension | **" in table


@pytest.mark.slow
@pytest.mark.usefixtures("triton_form")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="the toy size is for the interpreter")
def test_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "k.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "kernels", "--toy", "--out", str(out)])
    assert main() == 0
    result = json.loads(out.read_text())
    assert result["errors"] == []
    kinds = {row["name"].split()[0] for row in result["check"]}
    assert kinds == {
        "mse", "smooth_l1", "cosine", "quantize", "token_spectrum", "spectral_align", "second_moment"
    }  # fmt: skip
    stored = {row["shape"].split()[1] for row in result["projection"]}
    assert {"bf16", "fp16", "int8"} <= stored
    assert "mse fp16" in {" ".join(row["name"].split()[:2]) for row in result["check"]}
    assert {row["variant"] for row in result["projection"]} >= {"kdcache, Triton", "torch.compile", "eager autocast"}
    assert {row["form"].split(":")[0] for row in result["projection"] if "form" in row} == {"triton", "torch"}
    assert {row["shape"].split()[0] for row in result["statistics"]} >= {"token_spectrum", "quantize", "spectral_align"}
    assert result["predictions"]["tokens"] == 50176
    assert result["share"]["with_loss"]["ms"]["median"] > 0
    assert "kdcache, library products" in out.with_suffix(".md").read_text()


def test_plain_torch_in_turns_with_eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "p.json"
    monkeypatch.setenv("KD_KERNELS", "torch")
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    words = ["--tokens", "98", "--repeats", "2", "--only", "192->384 fp32 fp16", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "kernels_plain", *words])
    assert main() == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["name"].split()[0] for row in rows] == ["mse", "smooth_l1", "cosine", "lift"]
    assert all(row["eager_cpu_ms"]["repeats"] == 2 and row["of_eager"] > 0 for row in rows)
    assert "lift 192->384" in out.with_suffix(".md").read_text()


def test_the_kernels_need_a_gpu_or_a_toy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words, message in ((["--only", "all"], "no section all"), ([], "no GPU here")):
        monkeypatch.setattr(sys, "argv", ["benchmarks", "kernels", *words])
        assert main() == 2
        assert message in capsys.readouterr().err


def test_unknown_names_list_the_known(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "nothing"])
    assert main() == 2
    message = capsys.readouterr().err
    assert all(name in message for name in BENCHMARKS)


def test_spread() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == {"median": 3.5, "p20": 2.0, "p80": 5.0, "repeats": 6}


@pytest.mark.slow
def test_the_analyses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--images", "20", "--tokens", "9", "--channels", "12", "--beside", "2", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "analysis", *words, "--out", str(tmp_path / "r.json")])
    assert main() == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["peak_bytes"] > 1 << 20
    assert {"reading", "ranks of each image", "spectral energy of tokens"} <= set(result["seconds"])
    assert "peak memory" in capsys.readouterr().out


@pytest.mark.slow
def test_the_codecs(tiny_cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "c.json"
    words = ["--images", "8", "--teacher-epochs", "1", "--repeats", "1", "--cache", str(tiny_cache.paths.root)]
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "codecs", *words, "--out", str(out)])
    assert main() == 0
    rows = json.loads(out.read_text())["rows"]
    own = {(row["features"], row["codec"]) for row in rows}
    every = {"fp32", "fp16", "bf16", "int8", "fp8", "int4", "factor=4"}
    assert all(every <= {codec for features, codec in own if features == name} for name, _ in own)
    assert len(rows) == 4 * len(own)
    assert all(row["encode_gb_per_s"]["median"] > 0 for row in rows)
    assert {tuple(row["shape"]) for row in rows} == {(8, 16, 96), (8, *tiny_cache.columns[0].shape)}
    found = {(row["codec"], row["outliers"]): row for row in rows if row["features"] == "digits"}
    assert found["fp32", "none"]["centred_error"] == 0
    assert found["int8", "+300"]["centred_error"] > 10 * found["int8", "none"]["centred_error"]
    assert found["int8", "none"]["dominated_by"] is None
    assert found["int8", "+300"]["dominated_by"] == "fp8"
    assert "| int4" in out.with_suffix(".md").read_text()


def test_a_codec_is_dominated_by_one_that_is_no_larger_and_loses_less() -> None:
    figures = {"a": (10, 0.1), "b": (10, 0.2), "c": (20, 0.1), "d": (5, 0.3), "e": (10, 0.1)}
    rows = [{"codec": name, "bytes_a_view": size, "centred_error": lost} for name, (size, lost) in figures.items()]
    found = {row["codec"]: row["dominated_by"] for row in mark_dominated(rows)}
    assert found == {"a": None, "b": "a", "c": "a", "d": None, "e": None}


@pytest.mark.slow
def test_the_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.json"
    words = ["--toy", "--repeats", "2", "--seconds", "0.01", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "replay", *words])
    assert main() == 0
    result = json.loads(out.read_text())
    assert {row["way"] for row in result["rows"]} == set(WAYS)
    assert len(result["rows"]) == len(WAYS) * len(WORKLOADS) * 2
    assert all(row["views_per_s"]["median"] > 0 and row["views_per_s"]["repeats"] == 2 for row in result["rows"])
    assert all(row["over_one_thread"]["median"] == 1 for row in result["rows"] if row["threads"] == 1)
    assert "pillow" in result["decoders"]
    assert "x one thread" in capsys.readouterr().out


def test_the_replay_compares_what_it_says(tmp_path: Path) -> None:
    """Each way really takes its decoder, and all give the same pixels."""
    data = encode_jpeg(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8), 90)
    decoders, pixels = {}, []
    for name, way in WAYS.items():
        with way.switched():
            decoders[name] = decode_jpeg(data) is not None
            view = ViewParams(3, 2, 40, 30, 16, 16, 0, 0, 1)
            pixels.append(replay_view(decode_pixels(data), view, size=16, interpolation="bicubic"))
    assert [fast for name, fast in decoders.items() if "Pillow" in name] == [False, False]
    assert decoders["replay, files and views by extensions"] == jpeg.can_decode()
    assert all(np.array_equal(each, pixels[0]) for each in pixels)


@pytest.mark.slow
def test_what_a_rank_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--student", "test_vit", "--image-size", "160", "--steps", "1", "--out", str(tmp_path / "p.json")]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "parallel", *words])
    assert main() == 0
    ranks = json.loads((tmp_path / "p.json").read_text())["ranks"]
    for held in ("weights", "gradients", "optimizer"):
        whole = ranks["ddp"][0][held]
        assert [each[held] for each in ranks["ddp"]] == [whole, whole]
        assert whole <= sum(each[held] for each in ranks["fsdp"]) < 1.01 * whole
