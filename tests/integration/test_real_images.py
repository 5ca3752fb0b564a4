"""The main job on real photographs, with the published teacher and student architectures (weights random)."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdcache.cache import open_cache
from kdcache.cli.main import main
from kdcache.train.metrics import read_metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "limit"), [("imagenet-sample/sample-{000..003}.tar", 4), ("cifar10/test-000.tar.gz", 4)]
)
def test_cait_to_deit_tiny_with_lift(
    shared_data: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, limit: int
) -> None:
    data = shared_data(name.split("/")[0]) / name.split("/")[1]
    cache = tmp_path / "cache"
    words = ["extract", "--data", str(data), "--teacher", "cait_s24_224", "--teacher-weights", "random"]
    words += ["--tap", "blocks.-1/patch", "--tap", "head/logits", "--codec", "fp16", "--views", "1"]
    words += ["--view-recipe", "rrc-flip", "--seed", "0", "--limit", str(limit), "--out", str(cache)]
    assert main(words) == 0
    assert main(["verify", str(cache)]) == 0
    [features, logits] = open_cache(cache).columns
    assert (features.shape, features.grid, logits.shape) == ([196, 384], [14, 14], [1000])
    run = tmp_path / "lift"
    words = ["train", "--cache", str(cache), "--student", "deit_tiny_patch16_224", "--method", "lift", "--epochs", "4"]
    settings = ["--set", "log_every=1", "--set", "optimizer.lr=1e-3", "--set", "same_classes=true"]
    assert main([*words, "--batch-size", "2", *settings, "--out", str(run)]) == 0
    assert json.loads((run / "summary.json").read_bytes())["num_parameters"] == 5_983_528
    features_lost = [entry["tokens"] for entry in read_metrics(run, "step")]
    assert len(features_lost) == 8
    assert features_lost[-1] < 0.9 * features_lost[0]
    capsys.readouterr()
