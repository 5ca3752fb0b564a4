import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.cache import open_cache
from kdcache.cli.extract_text import source_text
from kdcache.cli.main import main
from kdcache.images import open_source
from tests.cli.support import extract_words, fails
from tests.conftest import GROUP


def test_a_first_run_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = extract_words(tmp_path / "c", "--tap", "blocks.-1/patch", "--tap", "head/logits:topk=3", "--codec", "int8")
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "6 images x 1 view in 2 shards" in shown.out
    assert "blocks-1-patch-int8" in shown.out
    assert "limited by" in shown.out
    assert f"next: kdcache verify {tmp_path / 'c'}" in shown.out
    assert "6/6 views" in shown.err
    assert [column.name for column in open_cache(tmp_path / "c").columns] == [
        f"{GROUP}/blocks-1-patch-int8",
        f"{GROUP}/head-logits-topk3",
    ]


def test_running_again_says_that_nothing_was_pending(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(extract_words(tmp_path / "c")) == 0
    capsys.readouterr()
    assert main(extract_words(tmp_path / "c")) == 0
    assert "nothing was pending, all 2 shards are there" in capsys.readouterr().out


def test_defaults_are_the_last_patch_tokens_and_logits(tmp_path: Path) -> None:
    assert main(extract_words(tmp_path / "c")) == 0
    cache = open_cache(tmp_path / "c")
    fingerprint = cache.manifest.fingerprint
    assert [column.facts.name for column in cache.columns] == ["blocks-1-patch-fp16", "head-logits-fp16"]
    assert (fingerprint.views.recipe, fingerprint.views.num_views, fingerprint.images) == ("eval", 1, "embed")


def test_one_of_several_workers_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the variables are left over of another job: nobody else will do the rest."""
    job = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    assert main(extract_words(tmp_path / "c", limit=8)) == 0
    shown = capsys.readouterr()
    assert "some shards are still pending" in shown.out
    assert "worker 1 of 2, as RANK and WORLD_SIZE in the environment say: takes one of every 2 shards" in shown.err
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert main(extract_words(tmp_path / "c", limit=8)) == 0
    assert "worker" not in capsys.readouterr().err


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(extract_words(tmp_path / "c", "--json")) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["finished"] is True
    assert (result["shards_written"], result["views_written"], result["num_bad"]) == (2, 6, 0)
    assert shown.err == ""


def test_view_parameters(tmp_path: Path) -> None:
    words = extract_words(
        tmp_path / "c", "--view-recipe", "rrc-flip", "--views", "2", "--view-params", "scale=[0.5,1]", "flip=0"
    )
    assert main(words) == 0
    views = open_cache(tmp_path / "c").manifest.fingerprint.views
    assert (views.params["scale"], views.params["flip"]) == ([0.5, 1.0], 0.0)


def test_a_few_images_of_each_class(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def few(*more: str) -> list[str]:
        return extract_words(tmp_path / "c", *more, data=str(photos), limit=None)

    assert main(few("--per-class", "2", "--per-class-seed", "12")) == 0
    cache = open_cache(tmp_path / "c")
    assert sorted(cache.index(cache.manifest.shards[0]).labels.tolist()) == [0, 0, 1, 1]
    assert main(["verify", str(tmp_path / "c")]) == 0
    assert main(["show", str(tmp_path / "c")]) == 0
    assert "4 of 4 from folder, 2 classes, 2 of each class (seed 12)" in capsys.readouterr().out
    error = fails(capsys, few("--per-class", "2", "--per-class-seed", "13"))
    assert "source.subset.seed: the cache has 12, this run wants 13" in error
    error = fails(capsys, few("--per-class", "67%", "--per-class-seed", "12"))
    assert "source.subset.per_class: the cache has '2', this run wants '67%'" in error
    assert "source.subset" in fails(capsys, few())
    assert "fewer than 4 (and 1 more like it)" in fails(capsys, few("--per-class", "4"), code=2)
    assert "would be ignored" in fails(capsys, few("--per-class-seed", "4"), code=2)
    assert "uneven; use one" in fails(capsys, few("--per-class", "1", "--limit", "3"), code=2)
    assert "got 'some'" in fails(capsys, few("--per-class", "some"), code=2)


def test_images_labels_and_classes_are_shown_before_the_teacher_is_loaded(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.teacher.begin.Teacher", lambda *_, **__: pytest.fail("the teacher was loaded"))
    (photos / "cat" / "raw.heic").touch()
    (tmp_path / "map.txt").write_text("dog\nfish\ncat\n")
    words = extract_words(tmp_path / "c", "--class-map", str(tmp_path / "map.txt"), data=str(photos))
    with pytest.raises(pytest.fail.Exception, match="the teacher was loaded"):
        main(words)
    shown = capsys.readouterr().err
    assert shown.startswith(
        f"{photos}: 6 images\n  passed over: 1 .heic\n  labels: all, from class folders\n"
        "  classes: 3: 0 dog, 1 fish, 2 cat\n  to write: about "
    )
    assert re.search(r"\(6 views of 6 images\), [\d.]+ [kMGT]?B free\n  time: about [\d.]+ s in the teacher at", shown)


def test_images_without_labels_are_counted_and_the_first_is_named(photos: Path) -> None:
    source = open_source(str(photos))
    source.images = [replace(image, label=-1) if image.key == "dog/2.png" else image for image in source.images]
    text = source_text(source, "d")
    assert "labels: 5 of 6, from class folders; the first without is 'dog/2.png'" in text
    assert "labels: none; students can be trained" in source_text(open_source(str(photos / "cat")), "d")


def test_bad_images_are_counted_and_named(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "cat" / "3.webp").write_bytes(b"")
    words = extract_words(tmp_path / "c", "--max-bad", "0.5", data=str(photos))
    assert main(words) == 0
    assert "1 bad image" in capsys.readouterr().out
    assert main(["show", str(tmp_path / "c")]) == 0
    assert "'cat/3.webp': empty file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to add: name a teacher, or pixels=raw"),
        (["--pixels", "jpeg"], "pixels=jpeg cannot be added"),
        (["--teacher", "t", "--views", "2"], "--views: fixed by the cache's base"),
        (["--pixels", "raw", "--per-class", "3"], "--per-class: fixed by the cache's base"),
        (["--pixels", "raw", "--limit", "3", "--image-size", "32"], "--image-size, --limit: fixed by the cache's base"),
    ],
)
def test_what_cannot_be_added(
    tiny_root: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert message in fails(capsys, ["extract", "--add", "--out", str(tiny_root), *flags], code=2)


def test_pixels_are_added(cache_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", "--add", "--pixels", "raw", "--out", str(cache_copy)]) == 0
    said = capsys.readouterr()
    assert "pixels/raw: " in said.out
    assert "the largest of" not in said.out, "of a group that this pass did not write"
    assert "caution" not in said.err
    assert main(["verify", str(cache_copy)]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--ray-address", "auto"), "--ray-address would be ignored: give --engine ray as well"),
        (("--ray-actors", "2"), "--ray-actors would be ignored: give --engine ray as well"),
        (("--engine", "ray", "--ray-actors", "0"), "ray_actors must be at least 1, got 0"),
        (("--engine", "ray", "--ray-address", "ray://head:1"), "must be HOST:PORT, auto or local"),
    ],
)
def test_a_cluster_is_asked_for_as_a_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    assert message in fails(capsys, extract_words(tmp_path / "c", *more), code=2)
    assert not (tmp_path / "c").exists()


def test_without_ray_its_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    message = fails(capsys, extract_words(tmp_path / "c", "--engine", "ray"))
    assert "needs ray, which is not installed: pip install 'kdcache[ray]'" in message
