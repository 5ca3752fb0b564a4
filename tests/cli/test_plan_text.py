from pathlib import Path

from kdcache.cli.plan_text import plan_text
from kdcache.planning.disk import DiskRates
from kdcache.planning.pixel_forms import PixelForm
from kdcache.planning.plan import Plan
from kdcache.planning.sizes import PlannedBytes
from kdcache.planning.training import TrainingCosts
from kdcache.planning.verdict import Figures, decide
from tests.planning.support import figures, tiny_plan

FORMS = [PixelForm("replay", 0.0, 2e-3), PixelForm("jpeg", 1e4, 9e-4), PixelForm("raw", 1.5e5, 1e-4)]


def plan(found: Figures, *, peaks: tuple[int, int] | None = None, fits: bool = True) -> Plan:
    low, high = peaks or (None, None)
    costs = TrainingCosts("cpu" if peaks is None else "cuda", 4, 1e-3, 3e-3, 5e-4, 2e-3, low, high)
    sizes = PlannedBytes({"g/head-logits-fp16": 8 * 10**8}, 10**8, 10**8)
    return Plan(found, decide(found), sizes, 250.0, "compute", 40, costs, FORMS, DiskRates(5e8, 2e9), fits, 1e5)


def test_the_table_has_every_figure(tmp_path: Path) -> None:
    text = plan_text(plan(figures(epochs=10)), tiny_plan(tmp_path))
    lines = dict(line.strip().split("  ", 1) for line in text.splitlines())
    assert lines["images"].strip() == "1,000 x 2 views, 100 kB each"
    assert lines["cache"].strip() == "1 GB (10 GB free)"
    assert lines["copied images"].strip() == "100 MB"
    assert "250 views/s (measured on 40 views), limited by compute" in lines["pass"]
    assert lines["an epoch"].strip() == "1 s from the cache, 4 s with the teacher in the loop"
    assert lines["break-even"].strip() == "after 2.67 epochs"
    assert lines["memory saved"].strip() == "not measured on a CPU"
    assert lines["pixels"].strip() == (
        "replay 0 B and 2 ms a view, jpeg 20 MB and 0.9 ms a view, raw 300 MB and 0.1 ms a view; take --pixels jpeg: "
        "the smallest that keeps up with a step"
    )


def test_what_was_measured_is_told(tmp_path: Path) -> None:
    text = plan_text(plan(figures(cached_read_s=1.0), peaks=(10**9, 3 * 10**9), fits=False), tiny_plan(tmp_path))
    assert "2 GB of the accelerator" in text
    assert "never" in text
    assert "fits into memory" not in text


def test_where_no_pixels_keep_up_the_fastest_are_named(tmp_path: Path) -> None:
    text = plan_text(plan(figures(step_s=1e-5)), tiny_plan(tmp_path))
    assert "take --pixels raw: none keeps up with a step" in text
