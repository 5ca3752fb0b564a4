import os
from pathlib import Path

import pytest

from kdcache.errors import BadImageError, SourceError
from kdcache.images.folder import FolderSource
from kdcache.images.source import UNLABELLED
from tests.test_durable import as_another_user


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
    source = FolderSource(photos)
    keys = [image.key for image in source.images]
    assert "cat/more/x y.ü.jpg" in keys
    assert len(keys) == 7
    assert source.passed_over == {".txt": 1, "folder .cache": 1, "beside the class folders": 1}


def test_nothing_is_passed_over_without_a_count(photos: Path, tmp_path: Path) -> None:
    """Every file is an image of the source, or counted by the reason why it is not."""
    (tmp_path / "elsewhere").mkdir()
    (photos / "cat" / "linked").symlink_to(tmp_path / "elsewhere")
    for name in ("a.heic", "b.HEIC", "4", "._1.jpg", "Thumbs.db", "a.svg", "b.jpg.part"):
        (photos / "cat" / name).touch()
    (photos / "cat" / "@eaDir").mkdir()
    os.mkfifo(photos / "dog" / "pipe.jpg")
    (photos / "annotations").mkdir()
    (photos / "annotations" / "all.xml").touch()
    source = FolderSource(photos)
    assert len(source.images) == 6
    assert source.class_names == ["cat", "dog"]
    assert source.passed_over_text() == (
        "2 .heic, 2 hidden files, 1 .part, 1 .svg, 1 .xml, 1 folder @eaDir, 1 folder annotations without an image, "
        "1 links to folders, 1 special files, 1 without extension"
    )


def test_folders_without_an_image_are_named(photos: Path) -> None:
    """A class of which nothing was copied takes no index, and somebody should hear of it."""
    for number in range(7):
        (photos / f"empty{number}").mkdir()
    source = FolderSource(photos)
    assert source.class_names == ["cat", "dog"]
    assert source.passed_over_text() == "7 folders without an image (empty0, empty1, empty2, empty3, empty4, …)"


@pytest.mark.parametrize("name", ["x.jfif", "x.JPE", "x.jpeg"])
def test_every_name_of_a_jpeg_is_one(photos: Path, name: str) -> None:
    (photos / "cat" / name).write_bytes((photos / "cat" / "1.JPEG").read_bytes())
    assert {image.extension for image in FolderSource(photos).images if image.key == f"cat/{name}"} == {"jpg"}


def test_a_folder_of_images_alone_has_no_labels(photos: Path) -> None:
    source = FolderSource(photos / "cat")
    assert [image.key for image in source.images] == ["1.JPEG", "3.webp", "5.png"]
    assert [image.label for image in source.images] == [UNLABELLED] * 3
    assert (source.num_classes, source.class_names, source.label_source) == (0, [], "")


def test_a_link_to_nothing_is_a_bad_image(photos: Path) -> None:
    """One such link must not end a pass over a million others."""
    (photos / "cat" / "2.jpg").symlink_to("/no/such/annex/object")
    (photos / "cat" / "loop.jpg").symlink_to("loop.jpg")
    source = FolderSource(photos)
    for position, image in enumerate(source.images):
        if image.key in ("cat/2.jpg", "cat/loop.jpg"):
            assert source.size_bytes(position) == 0
            with pytest.raises(BadImageError, match="a link to nothing"):
                source.read(position)
    assert len(source.images) == 8


def test_a_class_behind_a_link_to_nothing_is_named(photos: Path) -> None:
    """The disk with its images is not mounted."""
    (photos / "zebra").symlink_to("/mnt/away/zebra")
    source = FolderSource(photos)
    assert source.class_names == ["cat", "dog"]
    assert source.passed_over_text() == "1 link zebra to nothing"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user to be refused as")
def test_a_file_that_may_not_be_read_is_a_bad_image(photos: Path) -> None:
    (photos / "cat" / "1.JPEG").chmod(0)
    source = FolderSource(photos)
    for folder in (photos, *photos.parents[:4]):
        folder.chmod(0o755)
    with as_another_user(), pytest.raises(BadImageError, match="no permission"):
        source.read(0)


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
