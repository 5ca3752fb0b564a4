"""Plans small enough for tests."""

from pathlib import Path
from typing import Any

from kdcache.planning.plan import PlanConfig
from kdcache.planning.training import StudentConfig
from kdcache.planning.verdict import Figures
from tests.conftest import STUDENT_KWARGS, tiny_extract


def figures(**changes: Any) -> Figures:
    """A cache of 1,000 images of two views; the step takes 1 ms, the teacher 3 ms, the pass 4 ms a view."""
    values: dict[str, Any] = {
        "num_images": 1000, "num_views": 2, "size_bytes": 10**9, "free_bytes": 10**10,
        "pass_s": 4e-3, "step_s": 1e-3, "teacher_s": 3e-3, "cached_read_s": 5e-4, "online_read_s": 2e-3,
    }  # fmt: skip
    return Figures(**{**values, **changes})


def tiny_plan(disk: Path, *, has_data: bool = True, **changes: Any) -> PlanConfig:
    """The tiny pass over digits and a student of width 12, measured for a moment."""
    of_pass = {name: changes.pop(name) for name in ("taps", "limit", "pixels", "images", "teacher") if name in changes}
    return PlanConfig(
        extract=tiny_extract(disk, **{"taps": ("blocks.-1/patch", "head/logits"), **of_pass}),
        has_data=has_data,
        student=StudentConfig(name="vit_tiny_patch16_224", kwargs=STUDENT_KWARGS, batch_size=4),
        disk=disk,
        **{"seconds": 0.05, **changes},
    )
