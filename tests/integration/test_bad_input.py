"""Bad input of every kind: one clear error with the remedy, and nothing lost."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from kdcache.cache import open_cache
from kdcache.cli.main import main
from tests.cli.support import extract_words, fails
from tests.cli.test_train import words as train_words
from tests.conftest import GROUP
from tests.images.test_tars import make_tar
from tests.test_durable import as_another_user


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A cache that must survive whatever is tried on it."""
    assert main(extract_words(tmp_path / "c")) == 0
    return tmp_path / "c"


def replaced(words: list[str], old: str, new: str) -> list[str]:
    assert old in words
    return [new if word == old else word for word in words]


def test_unknown_teacher(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = open_cache(finished).digest
    capsys.readouterr()
    message = fails(capsys, replaced(extract_words(finished), "vit_tiny_patch16_224", "vit_tinny_patch16_224"))
    assert "no model 'vit_tinny_patch16_224'; did you mean vit_tiny_patch16_224" in message
    assert open_cache(finished).digest == before


def test_weights_that_do_not_fit(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"head.weight": torch.zeros(3, 3)}, tmp_path / "w.pth")
    capsys.readouterr()
    message = fails(capsys, replaced(extract_words(finished), "random", str(tmp_path / "w.pth")))
    assert "does not fit VisionTransformer: missing: blocks.0" in message
    assert "--teacher-kwargs" in message


def test_a_tap_that_does_not_exist(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    message = fails(capsys, extract_words(finished, "--tap", "blocks.7/patch"))
    assert "this model has 2 blocks; choose blocks.0 to blocks.1" in message


def test_grids_that_differ(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--cache", str(finished), "--student", "vit_tiny_patch16_224", "--method", "lift"]
    words += ["--student-kwargs", "patch_size=8", "depth=1", "--out", str(tmp_path / "run"), "--batch-size", "4"]
    capsys.readouterr()
    message = fails(capsys, words)
    assert "makes 2 x 2 patch tokens of these views, the teacher made 4 x 4" in message
    assert "choose a student with the teacher's patch size" in message
    assert not (tmp_path / "run").exists()


def test_a_cache_of_another_teacher(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = open_cache(finished).digest
    capsys.readouterr()
    message = fails(capsys, replaced(extract_words(finished), "depth=2", "depth=3"))
    assert "teacher.kwargs.depth: the cache has 2, this run wants 3" in message
    assert "Nothing was changed" in message
    assert open_cache(finished).digest == before


@contextmanager
def files_limited_to(size_bytes: int) -> Iterator[None]:
    """The full disk that needs no root: larger files fail with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_full_disk_while_extracting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first shard fits, the second does not; afterwards the same command finishes the cache."""
    words = replaced(extract_words(tmp_path / "c", limit=400), "4", "350")
    assert main(replaced(words, str(tmp_path / "c"), str(tmp_path / "whole"))) == 0
    capsys.readouterr()
    with files_limited_to(300_000):
        message = fails(capsys, words)
    assert "bytes wanted" in message
    assert "make room and run the same command again" in message
    assert list((tmp_path / "c").rglob("*.tmp")) == []
    assert main(words) == 0
    assert open_cache(tmp_path / "c").digest == open_cache(tmp_path / "whole").digest


@pytest.mark.slow
def test_a_full_disk_while_training(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = train_words(tiny_root, tmp_path / "run", "--epochs", "2")
    with files_limited_to(30_000):
        message = fails(capsys, words)
    assert "checkpoint is safe: make room and run the same command again" in message
    assert main(words) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user to be refused as")
def test_a_folder_that_cannot_be_written_is_refused_before_the_teacher_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdcache.teacher import begin

    monkeypatch.setattr(begin, "Teacher", lambda *_, **__: pytest.fail("the teacher was loaded"))
    # Another user may not even read the digits, where the virtual environment is this user's alone.
    digits = begin.open_source("digits:train")
    monkeypatch.setattr(begin, "open_source", lambda *_: digits)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    (tmp_path / "locked").mkdir(mode=0o555)
    with as_another_user():
        message = fails(capsys, extract_words(tmp_path / "locked" / "c"))
    assert "cannot create" in message
    assert "Choose a folder that this user can write to" in message


def test_a_file_where_the_folder_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c").touch()
    assert "cannot create" in fails(capsys, extract_words(tmp_path / "c"))


def test_a_truncated_source_tar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar = make_tar(tmp_path / "t.tar", {f"k{number}.jpg": b"x" * 3000 for number in range(4)})
    tar.write_bytes(tar.read_bytes()[:5000])
    message = fails(capsys, extract_words(tmp_path / "c", data=str(tar)))
    assert "truncated or damaged tar" in message
    assert "fetch it again" in message
    assert not (tmp_path / "c").exists()


def test_a_truncated_shard(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = finished / GROUP / "blocks-1-patch-fp16" / "train-000000.tar"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-512])
    capsys.readouterr()
    words = [
        "train",
        "--cache",
        str(finished),
        "--student",
        "vit_tiny_patch16_224",
        "--method",
        "lift",
        "--batch-size",
        "4",
    ]
    message = fails(capsys, [*words, "--student-kwargs", "patch_size=4", "depth=1", "--out", str(tmp_path / "run")])
    assert "train-000000.tar" in message
    assert "the file is truncated" in message
    assert "kdcache verify" in message


def test_an_unfinished_cache(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "manifest.json").unlink()
    capsys.readouterr()
    for words in (train_words(finished, tmp_path / "run"), ["verify", str(finished)], ["show", str(finished)]):
        assert "the extraction has not finished; run the same `kdcache extract` (or `kdcache convert`) again" in fails(
            capsys, words
        )


def test_no_images_left(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in photos.rglob("*.*"):
        path.write_bytes(b"")
    message = fails(capsys, extract_words(tmp_path / "c", data=str(photos)))
    assert "cannot be used, more than the fraction of 0.01" in message


def test_every_image_bad_and_that_accepted(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty cache is a cache: it verifies, shows its ledger, and cannot be trained on."""
    for path in photos.rglob("*.*"):
        path.write_bytes(b"")
    assert main(extract_words(tmp_path / "c", "--max-bad", "1", data=str(photos))) == 0
    assert main(["verify", str(tmp_path / "c")]) == 0
    assert main(["show", str(tmp_path / "c")]) == 0
    capsys.readouterr()
    words = [
        "train",
        "--cache",
        str(tmp_path / "c"),
        "--student",
        "resnet18",
        "--method",
        "none",
        "--out",
        str(tmp_path / "r"),
    ]
    assert "does not fill one batch" in fails(capsys, words, code=2)


def test_two_jobs_at_once(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kdcache.cache import BaseFingerprint
    from kdcache.cache.job import Job
    from kdcache.cache.paths import CachePaths

    job = Job(CachePaths(finished), "somebody else", BaseFingerprint)
    capsys.readouterr()
    message = fails(capsys, extract_words(finished))
    job.close()
    assert f"pid {os.getpid()}" in message
    assert "wait for it or stop it" in message
