"""KD_KERNELS, tables, and what is said where Triton cannot be had."""

import json
from pathlib import Path

import pytest
import torch
from kdcache_kernels import (
    dispatch,
    proj_cosine,
    proj_mse,
    quantize,
    spectral_align,
    token_spectrum,
    watch_forms,
)
from kdcache_kernels.checked import stamped
from kdcache_kernels.dispatch import choose, read_table

CPU = torch.zeros(1)


class OnGpu:
    """What `choose` looks at of a tensor on a GPU."""

    is_cuda = True
    device = torch.device("cuda", 0)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OnGpu:
    rows = {"sums": {"192": {"tile": 64}, "384": {"form": "torch", "tile": 1}}, "ds": {"*": {"tile": 8}}}
    (tmp_path / "sm_90.json").write_text(json.dumps(stamped({"kernels": rows}, "H100, 2026-11-26")))
    monkeypatch.setattr(dispatch, "_TABLES", tmp_path)
    monkeypatch.setattr(dispatch, "_cuda_architecture", lambda index: "sm_90")
    monkeypatch.delenv("KD_KERNELS", raising=False)
    dispatch._read_document.cache_clear()
    dispatch._chosen.cache_clear()
    dispatch._is_checked.cache_clear()
    dispatch._warn_once.cache_clear()
    yield OnGpu()
    dispatch._read_document.cache_clear()
    dispatch._chosen.cache_clear()
    dispatch._is_checked.cache_clear()
    dispatch._warn_once.cache_clear()


def test_a_gpu_with_entries_runs_triton(hopper: OnGpu) -> None:
    chosen = choose(["sums", "ds"], hopper, 192)
    assert (chosen.form, chosen.configs) == ("triton", {"sums": {"tile": 64}, "ds": {"tile": 8}})


def test_an_unknown_width_runs_torch_and_warns_once(hopper: OnGpu, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.warns(UserWarning, match="no sums for width 100"):
        assert choose(["sums"], hopper, 100).form == "torch"
    assert choose(["sums"], hopper, 100).form == "torch"


def test_a_kernel_that_changed_since_its_check_waits_to_be_asked_for(
    hopper: OnGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sm_90.json"
    document = json.loads(file.read_text())
    document["kernels"]["sums"]["192"]["tile"] = 128
    file.write_text(json.dumps(document))
    with pytest.warns(UserWarning, match=r"sums was not checked on sm_90 as it is now \(KD_KERNELS=triton uses it"):
        assert choose(["sums"], hopper, 192).form == "torch"
    assert choose(["ds"], hopper, 192).form == "triton"
    monkeypatch.setenv("KD_KERNELS", "triton")
    assert choose(["sums"], hopper, 192).configs == {"sums": {"tile": 128}}


def test_where_library_products_were_faster_they_run(hopper: OnGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose(["sums"], hopper, 384)
    assert chosen.form == "torch"
    assert "faster" in chosen.reason
    monkeypatch.setenv("KD_KERNELS", "triton")
    assert choose(["sums"], hopper, 384).configs == {"sums": {"tile": 1}}


def test_insisting_on_triton_fails_where_it_cannot_be_had(hopper: OnGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_KERNELS", "triton")
    with pytest.raises(RuntimeError, match="no sums for width 100; make an entry"):
        choose(["sums"], hopper, 100)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="tensors on cpu have no Triton"):
        choose(["sums"], CPU, 192)


def test_torch_is_always_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_KERNELS", "torch")
    assert choose(["sums"], CPU, 192).reason == "KD_KERNELS=torch"
    monkeypatch.setenv("KD_KERNELS", "fast")
    with pytest.raises(ValueError, match="auto, torch, triton, got 'fast'"):
        choose(["sums"], CPU, 192)


def test_a_cpu_runs_torch_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KD_KERNELS", raising=False)
    assert choose(["gram_sums"], CPU, 192).form == "torch"
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert choose(["gram_sums"], CPU, 192).form == "torch"


def test_shipped_tables_are_read() -> None:
    assert {"gram_sums", "gram_ds", "gram_small"} <= read_table("interpreter").keys()
    assert read_table("sm_12345") == {}


def test_what_ran_is_noted_within_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_KERNELS", "torch")
    tokens, weight, targets = torch.randn(6, 8), torch.randn(12, 8), torch.randn(6, 12)
    proj_mse(tokens, weight, None, targets)
    outer: dict[str, str] = {}
    inner: dict[str, str] = {}
    with watch_forms(outer):
        token_spectrum(tokens)
        with watch_forms(inner):
            proj_cosine(tokens, weight, None, targets)
            quantize(tokens)
        spectral_align(torch.randn(2, 4, 3, 3), torch.randn(2, 8, 3, 3))
    wanted = ("proj_cosine 8 to 12", "quantize 8", "spectral_align 4 and 8", "token_spectrum 8")
    assert sorted(outer) == list(wanted)
    assert sorted(inner) == list(wanted[:2])
    assert set(outer.values()) == {"torch: KD_KERNELS=torch"}
    with pytest.raises(ZeroDivisionError), watch_forms(outer):
        _ = 1 / 0
    proj_mse(tokens, weight, None, targets)
    assert sorted(outer) == list(wanted)
