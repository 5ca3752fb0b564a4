"""Features of one teacher and logits of another, from one cache: trained on, shown, measured and reported."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from kdcache.cache import open_cache
from kdcache.cli.main import main
from kdcache.cli.remedies import error_text
from kdcache.errors import CacheMismatchError, TapError, UsageError
from kdcache.methods.base import Method
from kdcache.methods.feature import feature
from kdcache.methods.lift import lift
from kdcache.methods.logit import logit
from kdcache.terms.logits import Logits
from kdcache.train import train
from kdcache.train.config import RunConfig
from kdcache.train.setup import prepare
from tests.conftest import GROUP
from tests.reports.html import Page
from tests.train.support import losses, tiny_run

LOGITS = f"{GROUP}/head-logits-fp16"
FEATURES = "wide/blocks-1-patch-int8"


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the loop can catch it."""


def taught(features: str, logits: str, method: Callable[..., Method] = lift, **settings: Any) -> Method:
    """Features of one group and logits of another."""
    own = method(teacher=(f"{features}:blocks.1/patch",), **settings)
    return own.with_terms(
        [replace(term, teacher=f"{logits}:head/logits:fp16") for term in own.terms if isinstance(term, Logits)]
    )


def mixed(*settings: str, **changes: Any) -> RunConfig:
    """Features of the added teacher, logits of the first."""
    return tiny_run("data.codec=int8", *settings, **{"method": taught("wide", GROUP), **changes})


def swapped() -> RunConfig:
    """The other way round."""
    return tiny_run("data.codec=int8", method=taught(GROUP, "wide"))


def test_columns_of_two_groups(groups_root: Path) -> None:
    cache = open_cache(groups_root)
    assert [column.name for column in prepare(mixed(), cache).columns] == [LOGITS, FEATURES]
    names = [column.name for column in prepare(swapped(), cache).columns]
    assert names == ["wide/head-logits-fp16", f"{GROUP}/blocks-1-patch-int8"]


@pytest.mark.parametrize("method", [lift, feature])
def test_training_resumes_bit_for_bit(groups_root: Path, tmp_path: Path, method: Callable[..., Method]) -> None:
    config = mixed(method=taught("wide", GROUP, method, logit_weight=0.5, feature_weight=1.0))
    train(groups_root, tmp_path / "whole", config)

    def on_event(kind: str, values: dict[str, Any]) -> None:
        if kind == "step" and values["step"] == 7:
            raise Killed

    with pytest.raises(Killed):
        train(groups_root, tmp_path / "cut", config, on_event=on_event)
    resumed: list[str] = []
    train(groups_root, tmp_path / "cut", config, on_event=lambda kind, _: resumed.append(kind))
    assert "resume" in resumed
    whole = losses(tmp_path / "whole")
    assert losses(tmp_path / "cut") == whole
    assert all(entry["logits"] > 0 and entry["tokens"] > 0 for entry in whole)
    one, two = (safetensors.torch.load_file(tmp_path / run / "student.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(two[name], value) for name, value in one.items())


def test_the_groups_are_what_is_trained_on(groups_root: Path, tmp_path: Path) -> None:
    """Each choice of groups gives losses of its own, and the terms follow the group they are taken from."""
    found: dict[str, dict[str, float]] = {}
    both = mixed(method=taught("wide", GROUP, logit_weight=1.0), epochs=1)
    other_logits = mixed(method=taught("wide", "wide", logit_weight=1.0), epochs=1)
    for name, config in {"both": both, "other": other_logits}.items():
        train(groups_root, tmp_path / name, config)
        found[name] = losses(tmp_path / name)[0]
    # The first step is taken by the same student on the same images.
    assert found["both"]["tokens"] == found["other"]["tokens"]
    assert found["both"]["logits"] != found["other"]["logits"]


def test_pixels_stored_or_replayed_train_the_same(groups_root: Path, tmp_path: Path) -> None:
    for pixels in ("stored", "replay"):
        train(groups_root, tmp_path / pixels, mixed(f"data.pixels={pixels}", epochs=1))
    assert losses(tmp_path / "stored") == losses(tmp_path / "replay")


@pytest.mark.parametrize(
    ("config", "listed", "advice"),
    [
        (
            tiny_run("data.codec=int8", method=feature(teacher=("blocks.1/patch",), logit_weight=0.0)),
            [f"{GROUP}:blocks.1/patch (int8)", "wide:blocks.1/patch (int8)"],
            "--term NAME:teacher=GROUP:TAP:CODEC",
        ),
        (
            tiny_run(method=logit()),
            [f"{GROUP}:head/logits (fp16)", "wide:head/logits (fp16)"],
            "--term NAME:teacher=GROUP:TAP:CODEC",
        ),
    ],
    ids=["features", "logits"],
)
def test_two_that_fit_are_refused_and_both_listed(
    groups_root: Path, tmp_path: Path, config: RunConfig, listed: list[str], advice: str
) -> None:
    with pytest.raises(TapError) as caught:
        train(groups_root, tmp_path / "run", config)
    assert ", ".join(listed) in str(caught.value)
    assert advice in error_text(caught.value)


def test_groups_and_teachers_that_are_not_there(groups_root: Path) -> None:
    cache = open_cache(groups_root)
    with pytest.raises(UsageError, match=f"no group 'narrow'; it holds pixels, {GROUP}, wide"):
        prepare(mixed(method=taught("wide", "narrow")), cache)
    with pytest.raises(UsageError, match="no group 'narrow'"):
        prepare(mixed(method=taught("narrow", GROUP)), cache)
    with pytest.raises(TapError, match=r"no column for wide:blocks\.0/patch.*wide:blocks\.1/patch \(int8\)"):
        prepare(
            mixed(
                method=lift(teacher=("wide:blocks.0/patch",)).with_terms([Logits(teacher=f"{GROUP}:head/logits:fp16")])
            ),
            cache,
        )
    with pytest.raises(CacheMismatchError, match=rf"group {GROUP} holds teacher .*group wide holds teacher"):
        prepare(mixed(teacher="cait_s24_224"), cache)


def test_a_run_resumes_only_with_the_groups_it_began_with(groups_root: Path, tmp_path: Path) -> None:
    train(groups_root, tmp_path / "run", mixed(epochs=1))
    with pytest.raises(Exception, match=r"method.terms") as caught:
        train(groups_root, tmp_path / "run", mixed(method=taught("wide", "wide"), epochs=1))
    assert type(caught.value).__name__ == "RunMismatchError"


def test_what_the_command_line_shows_of_both(
    groups_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(groups_root)]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (GROUP, "wide", "pixels", "bf16", "fp32"))
    assert main(["show", str(groups_root), "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert {name: len(group["columns"]) for name, group in groups.items()} == {GROUP: 7, "wide": 2, "pixels": 1}
    assert [groups[name]["teacher"] is None for name in (GROUP, "wide", "pixels")] == [False, False, True]
    picture = ["show", str(groups_root), "--picture", str(tmp_path / "p.png"), "--column", FEATURES]
    assert main(picture) == 0
    assert "wide:blocks.1/patch (int8)" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_measured_of_one_group_or_of_both(groups_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--seconds", "0.05", "--step-ms", "1", "--json"]
    cache = open_cache(groups_root)
    asked = {
        "both": ([], cache.columns),
        "wide": (["--group", "wide"], cache.group("wide").columns),
        "named": (["--column", FEATURES], [cache.column(FEATURES)]),
    }
    for more, columns in asked.values():
        assert main(["bench", str(groups_root), *quick, *more]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["pixels"] == "raw"
        # Label, sample and view number, 8 bytes each, and the raw pixels come with every record.
        record_bytes = 3 * 8 + 3 * 16**2 + sum(column.layout().payload_bytes for column in columns)
        assert 1e9 * result["gb_per_s"] / result["samples_per_s"] == pytest.approx(record_bytes)


@pytest.mark.slow
def test_a_report_of_a_cache_analyses_and_a_run(groups_root: Path, tmp_path: Path) -> None:
    words = ["analyze", str(groups_root), "--images", "5", "--permutations", "3", "--out", str(tmp_path / "a")]
    assert main(words) == 0
    train(groups_root, tmp_path / "run", mixed(epochs=1))
    folders = [groups_root, tmp_path / "a" / GROUP, tmp_path / "a" / "wide", tmp_path / "run"]
    assert main(["report", *map(str, folders), "--out", str(tmp_path / "r.html")]) == 0
    words_of_page = Page((tmp_path / "r.html").read_text(encoding="utf-8")).words
    for text in (f"groups.{GROUP}.teacher.precision", "groups.wide.teacher.precision", "config.method.terms"):
        assert text in words_of_page
