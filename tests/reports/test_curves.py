from pathlib import Path

import numpy as np
from PIL import Image

from kdcache.reports.curves import draw_curves


def test_the_picture_shows_every_run(tmp_path: Path) -> None:
    evals = {"alone": [{"epoch": 0, "top1": 20.0}, {"epoch": 1, "top1": 60.0}], "Lift": [{"epoch": 1, "top1": 80.0}]}
    steps = {"alone": [{"step": 1}], "Lift": [{"step": 1, "feature": 2.0}, {"step": 2, "feature": 0.5}]}
    draw_curves(tmp_path / "c.png", evals, steps, ("teacher", 95.0))
    pixels = np.asarray(Image.open(tmp_path / "c.png").convert("RGB"))
    assert pixels.shape[0] > 300
    assert (pixels < 250).any(axis=2).mean() > 0.02
    orange = (np.abs(pixels.astype(int) - (0xE6, 0x9F, 0x00)).sum(axis=2) < 30).sum()
    assert orange > 50


def test_runs_without_evaluation_or_features(tmp_path: Path) -> None:
    draw_curves(tmp_path / "c.png", {"alone": []}, {"alone": []}, ("teacher", 95.0))
    assert (tmp_path / "c.png").stat().st_size > 1000
