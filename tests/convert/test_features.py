import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from kdcache.convert.features import match_features, open_features
from kdcache.errors import BadRecordError, UsageError


def npy(values: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=allow_pickle)
    return buffer.getvalue()


def write_members(path: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_of_npy_files(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.npy").write_bytes(npy(np.arange(6, dtype=np.float16).reshape(2, 3)))
    features = open_features(tmp_path)
    assert list(features.names) == ["cat/1"]
    assert (features.key_of("cat/1.jpg"), features.key_of("cat/1"), features.key_of("1.jpg")) == (
        "cat/1",
        "cat/1",
        None,
    )
    loaded = features.load("cat/1", None)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tars_with_one_safetensors_file_a_sample(tmp_path: Path, format: int) -> None:
    tensors = {"features": np.ones((2, 3), np.float32), "logits": np.zeros(5, np.float32)}
    members = {"./a.b.safetensors": safetensors.numpy.save(tensors), "a.b.jpg": b"image", "c.npy": npy(np.ones(4))}
    write_members(tmp_path / "x-0.tar", members, format)
    write_members(
        tmp_path / "x-1.tar", {"long/" * 30 + "d.npy": npy(np.ones(4))} if format != tarfile.USTAR_FORMAT else {}
    )
    features = open_features(tmp_path)
    assert {"a.b", "c"} <= set(features.names)
    np.testing.assert_array_equal(features.load("a.b", "logits"), np.zeros(5))
    np.testing.assert_array_equal(features.load("c", None), np.ones(4))
    with pytest.raises(UsageError, match=r"a\.b\.safetensors: wanted one tensor, it holds features, logits"):
        features.load("a.b", None)
    with pytest.raises(UsageError, match="wanted tokens, it holds features, logits"):
        features.load("a.b", "tokens")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.npy", npy(np.array([{"x": 1}], dtype=object), allow_pickle=True)),
        ("a.npy", npy(np.arange(8))[:-3]),
        ("a.npy", b""),
        ("a.npy", npy(np.array(["text"]))),
        ("a.safetensors", b"\xff" * 40),
        ("a.safetensors", b""),
    ],
    ids=["pickled", "cut", "empty", "text", "no safetensors", "empty safetensors"],
)
def test_what_is_no_array_is_named_and_nothing_is_unpickled(tmp_path: Path, name: str, data: bytes) -> None:
    features = open_features(write_members(tmp_path / "x.tar", {name: data}))
    with pytest.raises(BadRecordError, match=rf"x\.tar/{name}: (cannot be read as an array|holds .* wanted numbers)"):
        features.load("a", None)


def test_a_header_of_terabytes_allocates_nothing(tmp_path: Path) -> None:
    whole = npy(np.zeros((3, 5), np.float32))
    for shape in (b"(3000000, 5000000)", b"(((((((((((((3, 5)"):
        path = write_members(tmp_path / "x.tar", {"a.npy": whole.replace(b"(3, 5), }" + b" " * 9, shape + b", }")})
        with pytest.raises(BadRecordError, match=r"cannot be read as an array"):
            open_features(path).load("a", None)


def test_links_and_devices_in_tars_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("a.npy")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(UsageError, match="holds no features"):
        open_features(tmp_path / "x.tar")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is there"):
        open_features(tmp_path / "none")
    with pytest.raises(UsageError, match=r"holds no features; wanted \.npy files"):
        open_features(tmp_path)
    (tmp_path / "text").write_text("x" * 2000)
    with pytest.raises(UsageError, match="is no uncompressed tar"):
        open_features(tmp_path / "text")
    write_members(tmp_path / "x.tar", {"a.npy": b"", "a.safetensors": b""})
    with pytest.raises(UsageError, match="is there twice"):
        open_features(tmp_path / "x.tar")


def test_images_without_features_are_counted_and_named(tmp_path: Path) -> None:
    features = open_features(write_members(tmp_path / "x.tar", {"a.npy": b"", "b.npy": b""}))
    assert match_features(features, ["b.png", "a"]) == ["b", "a"]
    with pytest.raises(
        UsageError, match=r"1 of 2 images have no features: 'c\.png'; those that are there are named like 'a'"
    ):
        match_features(features, ["b.png", "c.png"])


def test_the_digest_tells_names_sizes_and_the_tensor_apart(tmp_path: Path) -> None:
    digests = set()
    for number, members in enumerate([{"a.npy": b"x"}, {"b.npy": b"x"}, {"a.npy": b"xx"}]):
        digests.add(open_features(write_members(tmp_path / f"{number}.tar", members)).digest(None))
    digests.add(open_features(tmp_path / "0.tar").digest("t"))
    assert len(digests) == 4
