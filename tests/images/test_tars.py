import gzip
import io
import tarfile
from pathlib import Path

import pytest

from kdcache.errors import SourceError
from kdcache.images.archives import MAX_COMPRESSION_RATIO
from kdcache.images.open import open_source


def make_tar(path: Path, members: dict[str, bytes], *, kind: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w", format=kind) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


MEMBERS = {
    "a/x.jpg": b"image x", "a/x.cls": b"3\n", "a/x.json": b"{}",
    "y.cls": b"0", "y.JPEG": b"image y",
    "z.png": b"image z",
    "text.txt": b"none",
    "zero.jpg": b"",
}  # fmt: skip


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz"])
def test_samples_are_grouped_by_key(tmp_path: Path, name: str, kind: int) -> None:
    source = open_source(str(make_tar(tmp_path / name, MEMBERS, kind=kind)))
    assert [(image.key, image.extension, image.label) for image in source.images] == [
        ("a/x", "jpg", 3),
        ("y", "jpg", 0),
        ("z", "png", -1),
        ("zero", "jpg", -1),
    ]
    assert [source.read(position) for position in range(4)] == [b"image x", b"image y", b"image z", b""]
    assert source.size_bytes(0) == 7
    assert source.num_classes == 4


def test_brace_patterns(tmp_path: Path) -> None:
    for number in range(3):
        make_tar(tmp_path / f"p-{number:03d}.tar", {f"k{number}.jpg": b"x"})
    source = open_source(str(tmp_path / "p-{000..002}.tar"))
    assert [image.key for image in source.images] == ["k0", "k1", "k2"]
    with pytest.raises(SourceError, match=r"p-003.tar: no such file or folder \(1 of 4 of"):
        open_source(str(tmp_path / "p-{000..003}.tar"))
    with pytest.raises(SourceError, match="braces are not balanced"):
        open_source(str(tmp_path / "p-{000.tar"))


def test_a_key_in_two_tars_names_both(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", {"k.jpg": b"x"})
    make_tar(tmp_path / "b.tar", {"k.jpg": b"y"})
    with pytest.raises(SourceError, match=r"'k' occurs twice: in .*a.tar and in .*b.tar"):
        open_source(str(tmp_path / "{a,b}.tar"))


def test_the_same_key_twice_in_one_tar(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", {"k.jpg": b"x", "other.jpg": b"y", "k.png": b"z"})
    with pytest.raises(SourceError, match=r"members of 'k' are not adjacent.*sorted by name"):
        open_source(str(tmp_path / "a.tar"))


def found(path: Path, *members: str) -> list[tuple[str, bytes, int]]:
    """(key, bytes, label) of a tar whose images hold their own names and whose labels are all 3."""
    source = open_source(
        str(make_tar(path, {name: b"3" if name.lower().endswith("cls") else name.encode() for name in members}))
    )
    return [(image.key, source.read(position), image.label) for position, image in enumerate(source.images)]


def test_a_plain_extension_comes_before_a_longer_one(tmp_path: Path) -> None:
    """Members of a sample are sorted by name, so that the depth map comes first."""
    assert found(tmp_path / "t.tar", "a.cls", "a.depth.png", "a.jpg", "a.seg.png") == [("a", b"a.jpg", 3)]
    assert open_source(str(tmp_path / "t.tar")).passed_over == {"further images of a sample": 2}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (("I.01.jpg", "I.02.jpg", "I.03.jpg", "I.04.jpg"), r"4 images share the key .I.: I.01.jpg, .*, …; a key ends"),
        (("I.01.cls", "I.01.jpg", "I.02.cls", "I.02.jpg"), "2 images share the key .I.: .*; a key ends"),
        (("a.jpg", "a.png"), "'a' has 2 images: a.jpg, a.png; one is taken"),
        (("a.cls", "a.jpg", "a.other.cls"), "'a' has 2 labels: a.cls, a.other.cls"),
        (("a.jpg", "b.jpg", "a.cls", "b.cls"), "members of 'a' are not adjacent"),
    ],
    ids=["dots in names", "dots in names of labels too", "two images", "two labels", "labels behind all images"],
)  # fmt: skip
def test_what_is_no_one_sample_is_refused(tmp_path: Path, members: tuple[str, ...], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        found(tmp_path / "t.tar", *members)


@pytest.mark.parametrize("label", ["a.CLS", "a.output.cls"])
def test_labels_by_other_spellings(tmp_path: Path, label: str) -> None:
    assert found(tmp_path / "t.tar", "a.input.JPG", label) == [("a", b"a.input.JPG", 3)]
    assert open_source(str(tmp_path / "t.tar")).label_source == ".cls members"


def test_what_a_mac_packs_beside_each_file_is_passed_over(tmp_path: Path) -> None:
    members = (
        "./._a.jpg",
        "./a.jpg",
        "./._a.cls",
        "./a.cls",
        "__MACOSX/b/._c.jpg",
        "b/.DS_Store",
        "b/._c.jpg",
        "b/c.jpg",
    )
    assert found(tmp_path / "t.tar", *members) == [("./a", b"./a.jpg", 3), ("b/c", b"b/c.jpg", -1)]
    assert open_source(str(tmp_path / "t.tar")).passed_over == {"hidden files": 5}


def test_every_member_that_is_not_taken_is_counted(tmp_path: Path) -> None:
    found(tmp_path / "t.tar", "a.jpg", "a.json", "a.txt", "b.jpg", "b.json", "c.cls", "README", "d.heic")
    assert open_source(str(tmp_path / "t.tar")).passed_over_text() == (
        "2 .json, 1 .heic, 1 .txt, 1 labels without an image, 1 without extension"
    )


@pytest.mark.parametrize("text", [b"cat", b"20260101000", b"-1", b"1.5", b"1e3", b"", b"\xff"])
def test_a_label_that_is_no_class_index_names_its_member(tmp_path: Path, text: bytes) -> None:
    make_tar(tmp_path / "t.tar", {"k.jpg": b"x", "k.cls": text})
    with pytest.raises(SourceError, match=r"k.cls holds '.*', wanted a class index such as 17 \(below 1,000,000\)"):
        open_source(str(tmp_path / "t.tar"))


def behind_one_another(folder: Path, name: str, *, gap: int = 0) -> Path:
    """Two tars written into one file."""
    first, second = (make_tar(folder / f"{key}-{name}", {f"{key}.jpg": b"x"}).read_bytes() for key in "ab")
    path = folder / name
    path.write_bytes(first + bytes(gap) + second)
    return path


@pytest.mark.parametrize("gap", [0, 3 << 20])
@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz"])
def test_tars_behind_one_another_are_refused(tmp_path: Path, name: str, gap: int) -> None:
    """`cat a.tar b.tar > all.tar` shows no reader but the first."""
    with pytest.raises(SourceError, match=r"another tar behind its end, .*pass the tars one by one"):
        open_source(str(behind_one_another(tmp_path, name, gap=gap if name == "t.tar" else 0)))


def test_anything_behind_the_end_is_refused_but_padding(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "t.tar", {"a.jpg": b"x"})
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(3 << 20))
    assert len(open_source(str(path)).images) == 1
    path.write_bytes(whole + bytes(700) + b"signature")
    with pytest.raises(SourceError, match=r"something else \(b'.*'\) behind its end"):
        open_source(str(path))


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    data = make_tar(tmp_path / "t.tar", {f"k{number}.jpg": b"x" * 600 for number in range(3)}).read_bytes()
    end = 3 * (512 + 1024)
    for size in [*range(0, end + 512, 512), 100, 700, 1500]:
        (tmp_path / "t.tar").write_bytes(data[:size])
        with pytest.raises(SourceError, match=r"truncated or damaged|empty file|if it was one, it is damaged"):
            open_source(str(tmp_path / "t.tar"))


def test_damaged_gzip_is_noticed(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "t.tar.gz", MEMBERS)
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[:-4], b"not gzip", data[:50] + b"\0" * 20 + data[70:]):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=r"truncated or damaged|it begins with b.not gzip"):
            open_source(str(path))


def test_a_gzip_bomb_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(b"\0" * (64 << 20)))
    with pytest.raises(SourceError, match=f"over {MAX_COMPRESSION_RATIO} times"):
        open_source(str(path))


def test_links_devices_and_sparse_files_are_no_images(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"k{ord(kind)}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("good.jpg")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    source = open_source(str(tmp_path / "t.tar"))
    assert [image.key for image in source.images] == ["good"]
    assert source.passed_over == {"links": 2, "special files": 2}


def test_no_images_at_all(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no images"):
        open_source(str(make_tar(tmp_path / "t.tar", {"a.txt": b"x"})))


def test_a_tar_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    source = open_source(str(make_tar(tmp_path / "t.tar", {"k.jpg": b"x" * 2000})))
    with (tmp_path / "t.tar").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(SourceError, match="became shorter"):
        source.read(0)
