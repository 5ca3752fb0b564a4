"""Workload C: photographs, the views to be cut from them, and a feature beside each."""

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.peers.base import Workload
from kdcache.images import decode_image
from kdcache.views import ViewParams, ViewRecipe, draw_view, replay_view

VIEW_SIZE = 224
_RECIPE = ViewRecipe(name="rrc-flip", size=VIEW_SIZE)
_MADE_UP = 64


def replay(data: bytes, view: np.ndarray) -> np.ndarray:
    """What kdcache itself does with an image: decode, cut, resize, mirror; (S, S, 3) uint8."""
    params = ViewParams(*(int(each) for each in view))
    return replay_view(decode_image(data).rgb, params, size=VIEW_SIZE, interpolation="bicubic")


@dataclass(frozen=True)
class PhotoWorkload(Workload):
    """C. The view of record r is drawn as kdcache draws it."""

    def view(self, number: int) -> np.ndarray:
        """The integers of its view."""
        with Image.open(self.images[number % len(self.images)]) as image:
            width, height = image.size
        view = draw_view(_RECIPE, seed=0, key=f"{number}", view=0, width=width, height=height)
        return np.array(view.as_integers(), np.int32)


def photographs(shared: Path, folder: Path) -> tuple[Path, ...]:
    """JPEG files: those of `shared`'s tars where they are, made-up ones of like size elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.glob("*.jpg"))
    if found:
        return tuple(found)
    for path in sorted(shared.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg") and (file := tar.extractfile(member)) is not None:
                    (folder / Path(member.name).name).write_bytes(file.read())
    random = np.random.default_rng(0)
    for number in range(0 if any(folder.glob("*.jpg")) else _MADE_UP):
        small = Image.fromarray(random.integers(0, 256, (47, 63, 3), np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"made-up-{number:03d}.jpg", quality=90)
    return tuple(sorted(folder.glob("*.jpg")))
