import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from kdcache.errors import SourceError
from kdcache.stream.foreign import ForeignLoader
from kdcache.stream.loader import StreamConfig
from kdcache.stream.tars import open_tars
from tests.stream.test_contract import write_foreign

CONFIG = StreamConfig(batch_size=2, images="none", shuffle=False)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype == object)
    return file.getvalue()


def write(path: Path, members: dict[str, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def test_safetensors_of_several_tensors(tmp_path: Path) -> None:
    tensors = [
        {"feat": torch.full((4, 3), number, dtype=torch.bfloat16), "head": torch.full((5,), -number).float()}
        for number in range(4)
    ]
    path = write(tmp_path / "a.tar", {f"{number}.safetensors": save(each) for number, each in enumerate(tensors)})
    tars = open_tars(path, ["safetensors"])
    assert [array.name for array in tars.arrays] == ["safetensors:feat", "safetensors:head"]
    assert tars.labels.tolist() == [-1] * 4
    seen = 0
    for batch in ForeignLoader(tars, CONFIG):
        for row, sample in enumerate(batch.samples.tolist()):
            for name in ("feat", "head"):
                decoded = batch.targets[f"safetensors:{name}"].decode()[row]
                assert torch.equal(decoded, tensors[sample][name].float())
                seen += 1
    assert seen == 8


def test_the_digest_knows_the_tars(tmp_path: Path) -> None:
    pattern = write_foreign(tmp_path)
    assert open_tars(pattern, ["feat.npy"]).digest == open_tars(pattern, ["feat.npy"]).digest
    other = tmp_path / "other"
    other.mkdir()
    assert (
        open_tars(write_foreign(other, (8, 0, 0, 12)), ["feat.npy"]).digest != open_tars(pattern, ["feat.npy"]).digest
    )


def safetensors(**described: object) -> bytes:
    """A header of one's own, and 64 bytes."""
    header = json.dumps(described).encode()
    return len(header).to_bytes(8, "little") + header + bytes(64)


ODD = {"dtype": "F32", "shape": [2, 2]}


@pytest.mark.parametrize(
    "data",
    [
        safetensors(),
        safetensors(a={**ODD, "data_offsets": [-16, 0]}),
        safetensors(a={**ODD, "data_offsets": [0, 12]}),
        safetensors(a={**ODD, "data_offsets": [1 << 70, (1 << 70) + 16]}),
        safetensors(a={**ODD, "data_offsets": [60, 76]}),
        safetensors(a={**ODD, "shape": [0, 2], "data_offsets": [0, 0]}),
        safetensors(a={**ODD, "shape": [-2, -2], "data_offsets": [0, 16]}),
        safetensors(a=5),
        b"\xff" * 40,
    ],
)
def test_safetensors_that_say_odd_things_are_refused(tmp_path: Path, data: bytes) -> None:
    """What they say becomes addresses."""
    with pytest.raises(SourceError):
        open_tars(write(tmp_path / "a.tar", {"a.safetensors": data}), ["safetensors"])


GOOD = npy(np.zeros((2, 3), np.float16))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.npy": GOOD, "b.npy": npy(np.zeros((3, 3), np.float16))}, r"b.npy: begins differently"),
        ({"a.npy": npy(np.zeros((2, 3), np.int64))}, r"a.npy: no array of ours to read \(<i8 in C order\)"),
        ({"a.npy": npy(np.asfortranarray(np.zeros((2, 3), np.float16)))}, "Fortran order"),
        ({"a.npy": npy(np.array([{}], object))}, "no array of ours"),
        ({"a.npy": b"hello"}, "no array of ours"),
        ({"a.npy": GOOD[:-1]}, r"139 bytes found, 140 wanted"),
        ({"a.npy": GOOD, "b.txt": b"x"}, r"b: no member .npy; it has txt"),
        ({"a.npy": GOOD, "a.cls": b"cat"}, r"a.cls holds 'cat'"),
        ({}, "no samples"),
    ],
)
def test_what_cannot_be_streamed(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    path = write(tmp_path / "a.tar", members)
    with pytest.raises(SourceError, match=message):
        open_tars(path)


def test_compressed_missing_and_misspelt(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a readable, uncompressed tar"):
        open_tars(write(tmp_path / "a.tar", {"a.npy": GOOD}, "w:gz"))
    with pytest.raises(SourceError, match="not a readable"):
        open_tars(str(tmp_path / "missing.tar"))
    with pytest.raises(SourceError, match="braces are not balanced"):
        open_tars("a{.tar")
