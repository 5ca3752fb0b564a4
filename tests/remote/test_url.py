"""Places: what is a URL, what is refused, and what never shows."""

from pathlib import Path

import pytest

from kdcache.errors import UsageError
from kdcache.remote.url import RemoteUrl, is_url, location, scrubbed


def test_paths_stay_paths() -> None:
    assert location("caches/inet") == Path("caches/inet")
    assert location(Path("x")) == Path("x")
    assert not is_url("s3:bucket/x")
    assert not is_url("a::b")


@pytest.mark.parametrize("text", ["s3://bucket/a/b", "gs://bucket/a/b", "az://bucket/a/b"])
def test_a_url_is_taken_apart_and_written_again(text: str) -> None:
    url = location(text + "/")
    assert isinstance(url, RemoteUrl)
    assert (url.bucket, url.key, url.name, str(url)) == ("bucket", "a/b", "b", text)
    assert str(url / "c.tar") == f"{text}/c.tar"
    assert RemoteUrl.parse("S3://bucket") == RemoteUrl("s3", "bucket", "")
    assert str(RemoteUrl.parse("s3://bucket") / "c") == "s3://bucket/c"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ftp://host/x", "not a place that is read or written"),
        ("file:///x", "wanted a path"),
        ("s3://user:secret@bucket/x", "no credentials"),
        ("az://bucket/x?sig=secret", "no query"),
        ("s3://", "BUCKET/KEY"),
        ("s3://bucket/a/../b", "'..'"),
        ("s3://bucket/a//b", "empty"),
    ],
)
def test_what_cannot_be_used_is_refused_without_its_secrets(text: str, found: str) -> None:
    with pytest.raises(UsageError, match=found) as refused:
        location(text)
    assert "secret" not in str(refused.value)


def test_secrets_do_not_show() -> None:
    text = scrubbed("GET https://me:secret@host/c/x?sv=1&sig=secret in 3 ms: (s3://a@b/c) failed")
    assert text == "GET https://host/c/x?… in 3 ms: (s3://b/c) failed"
