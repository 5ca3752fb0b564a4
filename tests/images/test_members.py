import tarfile
from collections import Counter
from pathlib import Path

import pytest

from kdcache.errors import SourceError
from kdcache.images import open_source
from kdcache.images.archives import Archives
from kdcache.images.members import members
from kdcache.images.rules import SourceRules
from tests.images.support import write_tar


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_members_are_where_they_are_said_to_be(tmp_path: Path, suffix: str) -> None:
    paths = [
        write_tar(
            tmp_path / f"{name}.tar{suffix}", {f"{name}.jpg": name.encode() * 9000}, "w" + suffix.replace(".", ":")
        )
        for name in "ab"
    ]
    archives = Archives(paths)
    for number, name in enumerate("ab"):
        [member] = members(archives, number, Counter())
        assert archives.read(number, member.offset, member.size_bytes) == name.encode() * 9000


# Names as cameras, scrapers, operating systems and other people's scripts make them: (members, taken, passed over).
ODD = [
    (("a.jpg", "b.JPEG", "c.Png"), 3, ""),
    (("a.jpg", "a.jpg.txt", "a.txt"), 1, "2 .txt"),
    (("a.heic", "b.jpg", "c.cr2", "d.svg"), 1, "1 .cr2, 1 .heic, 1 .svg"),
    (("a.jpg", "inner.tar", "b.zip", "c.tar.gz"), 1, "1 archives .gz, 1 archives .tar, 1 archives .zip"),
    (("a.jpg", "__MACOSX/._a.jpg", "Thumbs.db", ".hidden.jpg"), 1, "3 hidden files"),
    (("a.jpg", "b", "README"), 1, "2 without extension"),
    (("../up.jpg", "/root.jpg", "./here.jpg"), 3, ""),
    (("日本/写真.jpg", "日本/ü b.jpg"), 2, ""),
    (("a.jpg", "a.mask.png", "a.depth.tiff"), 1, "2 further images of a sample"),
    (("a.npy", "a.jpg", "a.cls"), 1, "1 .cls, 1 .npy"),
    (("a\nb.jpg", "c\x1b[31m.jpg"), 2, ""),
    (("x" * 300 + ".jpg", "d/" * 60 + "e.jpg"), 2, ""),
]


@pytest.mark.parametrize(("names", "taken", "passed_over"), ODD)
def test_no_member_vanishes(tmp_path: Path, names: tuple[str, ...], taken: int, passed_over: str) -> None:
    write_tar(tmp_path / "t.tar", dict.fromkeys(names, b"3"))
    source = open_source(str(tmp_path / "t.tar"), SourceRules(label_member="none"))
    assert (len(source.images), source.passed_over_text()) == (taken, passed_over)


def test_a_name_in_no_known_encoding_is_kept(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", {"a\udcff.jpg": b"x"})
    assert [image.key for image in open_source(str(tmp_path / "t.tar")).images] == ["a\udcff"]


def test_a_member_beyond_the_end_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 20
    path.write_bytes(info.tobuf() + bytes(2048))
    with pytest.raises(SourceError, match="truncated or damaged"):
        open_source(str(path))
