from pathlib import Path

import numpy as np
from PIL import Image

from kdcache.reports.curves import draw_curves


def test_the_picture_shows_every_run(tmp_path: Path) -> None:
    evals = {"alone": [{"epoch": 0, "top1": 20.0}, {"epoch": 1, "top1": 60.0}], "Lift": [{"epoch": 1, "top1": 80.0}]}
    steps = {"alone": [{"step": 1}], "Lift": [{"step": 1, "tokens": 2.0}, {"step": 2, "tokens": 0.5}]}
    draw_curves(tmp_path / "c.png", evals, steps, ("teacher", 95.0))
    pixels = np.asarray(Image.open(tmp_path / "c.png").convert("RGB"))
    assert 300 < pixels.shape[0] < 600
    assert (pixels < 250).any(axis=2).mean() > 0.02
    orange = (np.abs(pixels.astype(int) - (0xE6, 0x9F, 0x00)).sum(axis=2) < 30).sum()
    assert orange > 50


def test_every_term_has_a_panel(tmp_path: Path) -> None:
    entries = [{"kind": "step", "step": at, "loss": 1.0, "lr": 0.1, "gram": 0.3 / at, "logits": 0.0} for at in (1, 2)]
    draw_curves(tmp_path / "c.png", {"a": []}, {"a": [{**each, "spectral": 1.0} for each in entries]}, ("t", 95.0))
    pixels = np.asarray(Image.open(tmp_path / "c.png").convert("L"))
    height, width = pixels.shape
    assert height > 900
    quarters = [
        pixels[top : top + height // 2, left : left + width // 2]
        for top in (0, height // 2)
        for left in (0, width // 2)
    ]
    assert all((quarter < 128).mean() > 0.002 for quarter in quarters)


def test_runs_without_evaluation_or_features(tmp_path: Path) -> None:
    draw_curves(tmp_path / "c.png", {"alone": []}, {"alone": []}, ("teacher", 95.0))
    assert (tmp_path / "c.png").stat().st_size > 1000
