import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcache.cache import Cache
from kdcache.cli.main import main
from kdcache.cli.show import _versions
from kdcache.teacher.extract import extract
from tests.cli.support import fails
from tests.conftest import tiny_extract


def test_everything_a_cache_holds(tiny_root: Path, tiny_cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tiny_root)]) == 0
    shown = capsys.readouterr().out
    for word in (
        "vit_tiny_patch16_224",
        "random weights",
        "rrc-flip",
        "blocks-1-patch-int8",
        "relative error",
        "0 images",
    ):
        assert word in shown
    assert main(["show", str(tiny_root), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["sha256"] == tiny_cache.digest
    assert (facts["samples"], facts["records"], facts["shards"], facts["bad"]) == (20, 40, 3, [])
    columns = facts["groups"]["vit-tiny-patch16-224"]["columns"]
    assert {column["name"] for column in columns} == {c.facts.name for c in tiny_cache.columns}
    assert all(column["bytes"] > 0 and "cosine" in column["fidelity"] for column in columns)


def test_how_auto_chose_a_codec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extract(tiny_extract(tmp_path / "c", codec="auto", max_error=0.02, taps=("blocks.1/patch",)))
    assert main(["show", str(tmp_path / "c")]) == 0
    assert "auto, to lose at most 0.02, by 6 views: factor=" in capsys.readouterr().out
    assert main(["show", str(tmp_path / "c"), "--json"]) == 0
    [column] = json.loads(capsys.readouterr().out)["groups"]["vit-tiny-patch16-224"]["columns"]
    tried = {each["codec"]: each["error"] for each in column["choice"]["trials"]}
    assert tried[column["codec"]] <= 0.018 < tried["int4"]


def test_versions_that_wrote_some_of_the_shards_are_named() -> None:
    facts = {"versions": {"torch": "2.14", "pillow": "12.0"}, "later_versions": [{"torch": "2.15", "pillow": "12.0"}]}
    assert _versions(facts) == "torch 2.14, pillow 12.0; some shards by torch 2.15"


def test_a_record_as_a_picture(
    tiny_root: Path, tiny_cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tiny_cache.index(tiny_cache.manifest.shards[1]).key(3)
    words = ["show", str(tiny_root), "--picture", str(tmp_path / "p.png"), "--key", key, "--view", "1"]
    assert main([*words, "--column", "blocks-0-patch-fp32"]) == 0
    assert f"{key}, view 1, vit-tiny-patch16-224:blocks.0/patch (fp32)" in capsys.readouterr().out
    assert (np.asarray(Image.open(tmp_path / "p.png").convert("RGB")) < 250).any()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--key", "nobody"], "holds no such image"),
        (["--view", "2"], "views 0 to 1"),
        (
            ["--column", "head-logits-fp16"],
            "needs a patch column; this cache has vit-tiny-patch16-224/blocks-1-patch-fp16",
        ),
    ],
)
def test_what_cannot_be_drawn(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert message in fails(capsys, ["show", str(tiny_root), "--picture", str(tmp_path / "p.png"), *flags], code=2)


def test_a_cache_without_patch_tokens_has_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extract(tiny_extract(tmp_path / "c", taps=("head/logits",), limit=2))
    shown = fails(capsys, ["show", str(tmp_path / "c"), "--picture", str(tmp_path / "p.png")], code=2)
    assert "--picture: a picture is drawn of patch tokens, and this cache has none" in shown
    assert "--column" not in shown
