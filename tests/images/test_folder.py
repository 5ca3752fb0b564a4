from pathlib import Path

import pytest

from kdcache.errors import SourceError
from kdcache.images.folder import FolderSource


def test_classes_and_images_are_in_order(photos: Path) -> None:
    source = FolderSource(photos)
    assert source.class_names == ["cat", "dog"]
    assert [image.key for image in source.images] == [
        "cat/1.JPEG", "cat/3.webp", "cat/5.png", "dog/0.jpg", "dog/2.png", "dog/4.jpg",
    ]  # fmt: skip
    assert [image.label for image in source.images] == [0, 0, 0, 1, 1, 1]
    assert [image.extension for image in source.images] == ["jpg", "webp", "png", "jpg", "png", "jpg"]
    assert source.images[0].readable_key == "cat/1"
    assert source.read(3) == (photos / "dog" / "0.jpg").read_bytes()
    assert source.size_bytes(3) == (photos / "dog" / "0.jpg").stat().st_size


def test_deeper_folders_other_files_and_odd_names(photos: Path) -> None:
    (photos / "cat" / "more").mkdir()
    (photos / "cat" / "more" / "x y.ü.jpg").write_bytes(b"")
    (photos / "cat" / "notes.txt").touch()
    (photos / ".cache").mkdir()
    (photos / "stray.jpg").touch()
    keys = [image.key for image in FolderSource(photos).images]
    assert "cat/more/x y.ü.jpg" in keys
    assert len(keys) == 7


def test_a_file_that_vanishes_is_named(photos: Path) -> None:
    source = FolderSource(photos)
    (photos / "cat" / "1.JPEG").unlink()
    with pytest.raises(SourceError, match=r"1\.JPEG: cannot be read any more"):
        source.read(0)


def test_an_empty_folder_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"wanted class/name.jpg"):
        FolderSource(tmp_path)
    (tmp_path / "a.tar").touch()
    with pytest.raises(SourceError, match=r"it holds tars: pass them as"):
        FolderSource(tmp_path)
