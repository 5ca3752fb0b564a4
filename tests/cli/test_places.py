"""A place is a path or a URL; what stays on a disk is a path."""

import sys
from pathlib import Path

import pytest

from kdcache.cli.places import local_path, place
from kdcache.errors import UsageError
from kdcache.remote import RemoteUrl
from tests.cli.support import extract_words, fails


def test_paths_and_urls() -> None:
    assert place("a/b") == local_path("a/b") == Path("a/b")
    assert place("s3://b/c") == RemoteUrl("s3", "b", "c")
    with pytest.raises(UsageError, match="s3://b/c: this is kept on a local disk"):
        local_path("s3://b/c")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--cache", "c", "--out", "s3://b/run"],
        ["eval", "s3://b/run", "--data", "digits"],
        ["export", "run", "--out", "s3://b/x"],
        ["analyze", "c", "--out", "s3://b/x"],
        ["report", "run", "--out", "s3://b/x.html"],
        ["convert", "s3://b/c", "--codec", "int4"],
        ["convert", "c", "--out", "s3://b/x.h5"],
        ["demo", "--out", "s3://b/x"],
        ["show", "c", "--picture", "s3://b/x.png"],
        ["verify", "ftp://b/x"],
        ["verify", "s3://me:secret@b/x"],
    ],
    ids=lambda words: words[0],
)
def test_a_url_where_none_is_read_is_refused_in_a_sentence(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    message = fails(capsys, words, code=2)
    assert "secret" not in message
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setenv("KDCACHE_STAGING", str(tmp_path / "staging"))
    monkeypatch.chdir(tmp_path)
    for words in (["show", "s3://b/x"], extract_words("s3://b/x")):
        assert "pip install 'kdcache[cloud]'" in fails(capsys, words)
