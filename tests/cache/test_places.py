"""From a place to paths: local ones as they are, those of object storage with what describes the cache."""

from pathlib import Path

import pytest

from kdcache.cache.places import reading_paths, writing_paths
from kdcache.errors import IncompleteCacheError
from kdcache.remote import RemoteFolder, RemoteUrl, Staging


@pytest.fixture
def url(bucket: str) -> RemoteUrl:
    return RemoteUrl.parse(f"{bucket}/c")


def put(url: RemoteUrl, *names: str) -> RemoteFolder:
    folder = RemoteFolder(url, Staging.default())
    for name in names:
        folder.replace(name, name.encode())
    return folder


def test_a_folder_here_is_not_touched(tmp_path: Path) -> None:
    for of in (reading_paths, writing_paths):
        paths = of(tmp_path / "none")
        assert (paths.root, paths.remote, str(paths)) == (tmp_path / "none", None, str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_nothing_there(url: RemoteUrl) -> None:
    with pytest.raises(IncompleteCacheError, match=f"{url}: no such folder"):
        reading_paths(url)
    assert str(writing_paths(url)) == str(url)


def test_what_describes_a_cache_comes_and_goes(url: RemoteUrl) -> None:
    put(url, "manifest.json", "manifest.sha256", "samples/a.tar", "g/manifest.json", "g/index/a.h5", "h/job/plan.json")
    paths = reading_paths(url)
    assert paths.manifest.read_bytes() == b"manifest.json"
    assert not (paths.root / "samples").exists()
    assert paths.group_names() == ["g", "h"]
    assert paths.group("g").finished() == {"a"}
    assert paths.where(paths.group("g").manifest) == f"{url}/g/manifest.json"
    assert paths.size_bytes("samples", "a") == len(b"samples/a.tar")
    assert paths.size_bytes("samples", "b") is None
    assert paths.files("samples") == [paths.root / "samples" / "a.tar"]
    put(url, "manifest.json")
    (paths.group("g").root / "wids-old.json").write_bytes(b"")
    (paths.root / "gone").mkdir()
    (paths.root / "gone" / "manifest.json").write_bytes(b"")
    assert reading_paths(url).group_names() == ["g", "h"]
    assert not (paths.group("g").root / "wids-old.json").exists()


def test_a_writer_has_a_folder_of_its_own(url: RemoteUrl) -> None:
    put(url, "manifest.json", "job/plan.json")
    reading, writing = reading_paths(url), writing_paths(url)
    assert reading.root != writing.root
    assert (writing.job / "plan.json").read_bytes() == b"job/plan.json"


def test_a_text_names_either(bucket: str, tmp_path: Path) -> None:
    assert writing_paths(str(tmp_path)).root == tmp_path
    assert str(writing_paths(f"{bucket}/c")) == f"{bucket}/c"
