"""Teachers and students by the name of a folder that timm saved: the same model, and no path in what is kept."""

import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from kdcache.cache import open_cache
from kdcache.cli.main import main
from kdcache.models import weights_sha256
from kdcache.models.hub import hub_problem
from tests.cli.support import fails
from tests.models.test_names import MEAN, save_fine_tuned


def test_a_fine_tuned_teacher_by_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = save_fine_tuned(tmp_path / "birds")
    teacher, cache = f"local-dir:{tmp_path / 'birds'}", tmp_path / "c"
    words = ["extract", "--data", "digits:train", "--limit", "8", "--shard-samples", "4", "--out", str(cache)]
    assert main([*words, "--teacher", teacher]) == 0
    group = open_cache(cache).groups["birds"]
    facts = group.manifest.fingerprint.teacher
    assert facts is not None
    assert (facts.name, facts.weights) == ("vit_tiny_patch16_224", "file")
    assert facts.weights_sha256 == weights_sha256(saved)
    assert facts.mean == list(MEAN)
    assert str(tmp_path) not in group.paths.manifest.read_text()

    (tmp_path / "birds").rename(tmp_path / "moved")
    moved = f"local-dir:{tmp_path / 'moved'}"
    capsys.readouterr()
    assert main([*words, "--teacher", moved, "--group", "birds"]) == 0, (
        "the same weights elsewhere are the same teacher"
    )
    assert "nothing was pending" in capsys.readouterr().out
    assert main(["verify", str(cache), "--rerun-teacher", "4", "--teacher-weights", moved]) == 0

    train = ["train", "--cache", str(cache), "--method", "logit:logit_weight=1", "--batch-size", "4", "--epochs", "1"]
    student = ["--student", moved, "--student-weights", "hub", "--set", "optimizer.lr=1e-12"]
    assert main([*train, *student, "--out", str(tmp_path / "run")]) == 0
    assert main(["analyze", "--model", moved, "--weights", "hub", "--data", "digits:test", "--images", "4",
                 "--permutations", "1", "--out", str(tmp_path / "a")]) == 0  # fmt: skip


@pytest.mark.slow
def test_without_a_network_it_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_problem.cache_clear()
    words = ["extract", "--data", "digits:train", "--limit", "4", "--out", str(tmp_path / "c"), "--teacher"]
    began = time.monotonic()
    assert "config.json is not in the local cache" in fails(capsys, [*words, "hf-hub:org/birds"])
    assert "is not in the local cache" in fails(capsys, [*words, "timm/resnet18.a1_in1k"])
    assert "`--teacher-weights FILE`" in fails(capsys, [*words, "resnet18.a1_in1k"])
    assert time.monotonic() - began < 30, "three commands; each took a minute of retries"
    assert not list((tmp_path / "c").rglob("*.tar"))
    hub_problem.cache_clear()
