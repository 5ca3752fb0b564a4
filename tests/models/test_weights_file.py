from pathlib import Path

import pytest
import safetensors.torch
import torch

from kdcache.errors import ModelError
from kdcache.models.weights_file import plain_reason, read_weights_file


class Trap:
    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.sprung,)


@pytest.mark.parametrize("new", [True, False])
def test_nothing_is_run_that_lies_beside_the_weights(tmp_path: Path, new: bool) -> None:
    value = {"model": {"w": torch.ones(2)}, "args": Trap(tmp_path / "sprung")}
    torch.save(value, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    torch.load(tmp_path / "w.pth", weights_only=False)
    (tmp_path / "sprung").unlink()  # it works: otherwise this test could not fail
    try:
        assert torch.equal(read_weights_file(tmp_path / "w.pth")["model"]["w"], torch.ones(2))
    except ModelError as error:
        assert "nothing is run" in str(error)
    assert not (tmp_path / "sprung").exists()


def test_a_safetensors_file_whose_length_begins_like_a_web_page(tmp_path: Path) -> None:
    """0x3c is ``<``: the length of the header is the file's first byte."""
    path = tmp_path / "w.safetensors"
    for name in range(1, 60):
        path.write_bytes(safetensors.torch.save({"w" * name: torch.ones(1)}))
        assert len(read_weights_file(path)) == 1


def test_a_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save({"w": torch.ones(1)}, tmp_path / "w.pth")
    assert list(read_weights_file(Path("~/w.pth"))) == ["w"]


def test_reasons_have_no_escape_codes_and_no_advice() -> None:
    text = "Weights only load failed. \x1b[1mdo those steps\x1b[0m\n\tUnsupported global: GLOBAL a.b was"
    assert plain_reason(RuntimeError(text)) == "it holds a.b, which is code"
    assert plain_reason(RuntimeError("\x1b[31mbad\x1b[0m\nfile")) == "bad file"
    assert plain_reason(EOFError()) == "EOFError"
