"""Tars on object storage: named by braces and patterns, fetched one after another, the images of those on disk."""

import pickle
from pathlib import Path

import pytest

from kdcache.errors import SourceError, UsageError
from kdcache.images import Source, open_source
from kdcache.images.remote_tars import find_remote_tars
from kdcache.images.rules import SourceRules
from kdcache.remote import RemoteFolder, RemoteUrl, Staging
from kdcache.remote.staging import used_bytes
from kdcache.teacher.source_plan import plan_source
from tests.conftest import tiny_extract
from tests.images.support import image_bytes, write_tar


@pytest.fixture
def tars(tmp_path: Path, bucket: str) -> tuple[Path, str]:
    """Four tars of three images on disk, and the same below a URL."""
    folder, url = tmp_path / "tars", f"{bucket}/train"
    folder.mkdir()
    there = RemoteFolder(RemoteUrl.parse(url), Staging.default())
    for number in range(4):
        members = {f"{number}-{image}.{kind}": image_bytes(image) if kind == "png" else b"7"
                   for image in range(3) for kind in ("cls", "png")}  # fmt: skip
        there.create(f"x-{number}.tar", write_tar(folder / f"x-{number}.tar", members))
    return folder, url


def all_of(source: Source) -> list[tuple[str, int, bytes]]:
    return [(image.key, image.label, source.read(number)) for number, image in enumerate(source.images)]


def test_it_is_the_source_on_disk(tars: tuple[Path, str]) -> None:
    folder, url = tars
    wanted = all_of(open_source(f"{folder}/x-*.tar"))
    for text in (f"{url}/x-{{0..3}}.tar", f"{url}/x-*.tar", "::".join(f"{url}/x-{number}.tar" for number in range(4))):
        assert all_of(open_source(text)) == wanted
    source = open_source(f"{url}/x-*.tar")
    assert not source.in_order_only
    assert pickle.loads(pickle.dumps(source)).read(5) == wanted[5][2]


def test_prefixes_are_those_on_disk(tars: tuple[Path, str]) -> None:
    folder, url = tars
    rules = SourceRules(key_prefix="tar")
    there, here = open_source(f"{url}/x-*.tar", rules), open_source(f"{folder}/x-*.tar", rules)
    assert [image.key for image in there.images] == [image.key for image in here.images]


def test_more_than_fits_is_read_one_after_another(
    tars: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = tars
    size = (folder / "x-0.tar").stat().st_size
    monkeypatch.setenv("KDCACHE_STAGING_SIZE", str(2 * size + 100))
    source = open_source(f"{url}/x-*.tar")
    assert all_of(source) == all_of(open_source(f"{folder}/x-*.tar"))
    assert used_bytes(tmp_path / "staging") <= 2 * size + 100
    config = tiny_extract(tmp_path / "out", data=url, limit=None)
    with pytest.raises(UsageError, match=r"one after another: .*order=source.*KDCACHE_STAGING_SIZE"):
        plan_source(source, config)
    assert len(plan_source(source, tiny_extract(tmp_path / "out", data=url, order="source", limit=None)).keys) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{url}/x-9.tar", "x-9.tar: no such object"),
        ("{url}/y-*.tar", "no such object"),
        ("{url}", "from tars there, not from folders"),
        ("{url}/x-0.tar,{url}/x-0.tar", "named twice"),
        ("{url}*/x-0.tar", "wanted tars of one folder"),
        ("{url}/x-{{0..3.tar", "braces are not balanced"),
        ("ftp://host/x.tar", "not a place that is read"),
    ],
)
def test_what_is_wrong_is_said_with_its_url(tars: tuple[Path, str], text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(text.format(url=tars[1]))


def test_compressed_ones_are_refused(tars: tuple[Path, str]) -> None:
    import gzip

    folder, url = tars
    there = RemoteFolder(RemoteUrl.parse(url), Staging.default())
    there.create("z.tar.gz", gzip.compress((folder / "x-0.tar").read_bytes()))
    with pytest.raises(SourceError, match=r"z.tar.gz: is compressed by gzip"):
        open_source(f"{url}/z.tar.gz")


def test_patterns_come_in_natural_order(tars: tuple[Path, str]) -> None:
    there = RemoteFolder(RemoteUrl.parse(tars[1]), Staging.default())
    for number in (10, 9):
        there.create(f"n{number}.tar", b"x")
    assert [tar.name for tar in find_remote_tars([f"{tars[1]}/n*.tar"])] == ["n9.tar", "n10.tar"]
