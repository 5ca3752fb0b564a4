"""Images that hang or kill a decoder, in folders, tars and compressed tars, with the processes they do it to."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from kdcache.images import open_source
from kdcache.teacher.quarantine import find_poison
from tests.images.support import image_bytes, write_tar
from tests.teacher import poison

HOSTILE = Path(__file__).parent / "hostile"


def write_images(root: Path, kind: str) -> Path:
    """Six images, of which the second hangs and the fourth kills."""
    images = [image_bytes(number) for number in range(6)]
    images[1], images[3] = b"SLEEPS" * 20, b"DEADLY" * 20
    if kind == "folder":
        (root / "images").mkdir()
        for number, data in enumerate(images):
            (root / "images" / f"{number}.jpg").write_bytes(data)
        return root / "images"
    members = {f"{number}.jpg": data for number, data in enumerate(images)}
    return write_tar(root / f"images.{kind}", members, "w:gz" if "gz" in kind else "w")


SLOW = pytest.mark.slow


@pytest.mark.parametrize("kind", ["folder", pytest.param("tar", marks=SLOW), pytest.param("tar.gz", marks=SLOW)])
@pytest.mark.slow
def test_the_probe_finds_them_in_every_source(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{HOSTILE}:{os.environ.get('PYTHONPATH', '')}")
    decode = partial(poison.decode, open_source(str(write_images(tmp_path, kind))))
    found = find_poison(decode, range(6), timeout_s=3)
    assert {number: reason.split(" (")[0] for number, reason in found.items()} == {
        1: "did not finish within 3 s",
        3: "killed the process that read it",
    }


@pytest.mark.parametrize("threads", ["1", pytest.param("3", marks=SLOW)])
@pytest.mark.slow
def test_an_image_that_hangs_ends_the_command_in_its_time(tmp_path: Path, threads: str) -> None:
    root = write_images(tmp_path, "folder")
    (root / "3.jpg").unlink()
    words = f"extract --teacher vit_tiny_patch16_224 --teacher-weights random --threads {threads} --image-timeout 2"
    kwargs = "--teacher-kwargs img_size=16 patch_size=8 depth=1 embed_dim=24 num_heads=3"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "kdcache", *words.split(), *kwargs.split(), "--data", str(root),
         "--out", str(tmp_path / "c")],
        env={**os.environ, "PYTHONPATH": f"{HOSTILE}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "image '1' took longer than 2 s; this counts as one attempt" in done.stderr
    # Without the hang the command takes a few seconds; with one that is waited for, an hour.
    assert time.monotonic() - began < 100
