from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdcache.reports.curves import draw_curves

TEACHER = ("teacher", 95.0)
ORANGE = (0xE6, 0x9F, 0x00)


def evals(*top1: float) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "top1": value} for epoch, value in enumerate(top1)]


def pixels_near(path: Path, colour: tuple[int, int, int]) -> int:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - colour).sum(axis=2) < 30).sum())


def test_the_picture_shows_every_row(tmp_path: Path) -> None:
    rows = {"alone": [evals(20.0, 60.0)], "Lift": [evals(30.0, 80.0)]}
    steps = {
        "alone": [[{"step": 1}]],
        "Lift": [[{"step": 1, "tokens": 2.0}, {"step": 2, "tokens": 0.5}]],
    }
    path, without = tmp_path / "c.png", tmp_path / "w.png"
    draw_curves(path, rows, steps, TEACHER)
    draw_curves(without, rows, {"alone": [[{"step": 1}]], "Lift": [[{"step": 1}]]}, TEACHER)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape[0] > 300
    assert (pixels < 250).any(axis=2).mean() > 0.02
    assert pixels_near(path, ORANGE) > pixels_near(without, ORANGE) + 50 > 100


def test_a_band_shows_the_range_of_several_seeds(tmp_path: Path) -> None:
    one, several = tmp_path / "one.png", tmp_path / "several.png"
    draw_curves(one, {"alone": [evals(30.0, 60.0)]}, {}, TEACHER)
    draw_curves(several, {"alone": [evals(20.0, 40.0), evals(40.0, 80.0)]}, {}, TEACHER)
    band = (217, 217, 217)  # black at 15 % on white
    assert pixels_near(several, band) > pixels_near(one, band) + 5000


def test_runs_without_evaluation_or_features(tmp_path: Path) -> None:
    draw_curves(tmp_path / "c.png", {"alone": [[]]}, {"alone": [[]]}, TEACHER)
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_every_term_has_a_panel(tmp_path: Path) -> None:
    entries = [{"kind": "step", "step": at, "loss": 1.0, "lr": 0.1, "gram": 0.3 / at, "logits": 0.0} for at in (1, 2)]
    draw_curves(tmp_path / "c.png", {"a": [[]]}, {"a": [[{**each, "spectral": 1.0} for each in entries]]}, TEACHER)
    pixels = np.asarray(Image.open(tmp_path / "c.png").convert("L"))
    height, width = pixels.shape
    assert height > 900
    quarters = [
        pixels[top : top + height // 2, left : left + width // 2]
        for top in (0, height // 2)
        for left in (0, width // 2)
    ]
    assert all((quarter < 128).mean() > 0.002 for quarter in quarters)
