from typing import Any

import msgspec
import numpy as np
import pytest

from kdcache.analysis.diagnosis import StudentShape, diagnose, student_shape
from kdcache.analysis.result import Layer, Ranks, Spread
from kdcache.errors import ModelError


def spread(p99: float) -> Spread:
    return Spread(mean=p99 / 2, std=1, p25=1, median=2, p75=3, p99=p99)


def layer(shared: tuple[float, ...] | None, own: float = 121) -> tuple[Layer, Ranks]:
    """CaiT-S24 as published unless said otherwise."""
    levels = ("80", "90", "95", "99")
    ranks = Ranks(
        max_rank=196,
        per_image={level: spread(value) for level, value in zip(levels, (14, 34, 61, own), strict=True)},
        per_image_centred=None,
        numerical=None,
        shared=None if shared is None else {level: spread(each) for level, each in zip(levels, shared, strict=True)},
        shared_centred=None,
        all_tokens=dict(zip(levels, (150, 230, 290, 350), strict=True)),
        all_tokens_centred=dict(zip(levels, (150, 230, 290, 350), strict=True)),
    )
    facts: dict[str, Any] = {"column": "", "codec": "", "grid": [14, 14], "fidelity": {}, "sep": None, "dynamics": None}
    return Layer(name="blocks.23/patch", block=23, num_tokens=196, num_channels=384, ranks=ranks, **facts), ranks


CURVES = {"ranks/all_tokens": np.linspace(1, 384, 384) / 384}
PUBLISHED = (167, 247, 302, 359)


@pytest.mark.parametrize(
    ("width", "shared", "remedy"),
    [
        (192, PUBLISHED, "widelast"),
        (320, PUBLISHED, "lift"),
        (384, PUBLISHED, "none"),
        (768, PUBLISHED, "none"),
        (192, (20, 60, 100, 190), "none"),
        (192, (20, 60, 100, 193), "lift"),
        (192, None, "widelast"),
    ],
)
def test_the_remedy_follows_the_numbers(width: int, shared: tuple[float, ...] | None, remedy: str) -> None:
    found = diagnose(*layer(shared), CURVES, StudentShape("student", width, 12), weights="hub")
    assert found.remedy == remedy
    assert found.layer == "blocks.23/patch"
    assert len(found.caveats) == 5
    needed = (shared or (150, 230, 290, 350))[3]
    assert f"{needed} shared dimensions" in found.paragraph
    whose = "99th percentile over images" if shared else "all tokens together"
    assert whose in found.paragraph
    assert dict(found.rows)["student's channels"] == str(width)


def test_no_verdict_without_its_number() -> None:
    found = diagnose(*layer(PUBLISHED), CURVES, StudentShape("deit", 192, 12), weights="file")
    for text in (
        "384 channels",
        "at most 50.0 %",
        "359 shared",
        "needs 302",
        "needs 121",
        "WideLast",
        "+1.24",
        "+0.54",
        "+0.30 and +0.35",
        "-0.16",
    ):
        assert text in found.paragraph
    assert "random" not in found.paragraph
    untrained = diagnose(*layer(PUBLISHED), CURVES, StudentShape("deit", 192, 12), weights="random")
    assert untrained.paragraph.startswith("The teacher's weights are random")
    wide = diagnose(*layer(PUBLISHED, own=200), CURVES, StudentShape("deit", 192, 12), weights="file")
    assert "even single images exceed its width" in wide.paragraph
    assert msgspec.to_builtins(found)["rows"][4][1] == "167 / 247 / 302 / 359"


def test_shapes_of_students() -> None:
    assert student_shape("deit_tiny_patch16_224") == StudentShape("deit_tiny_patch16_224", 192, 12)
    assert student_shape("resnet18").width == 512
    assert student_shape("vit_tiny_patch16_224", {"embed_dim": 48, "depth": 4}) == StudentShape(
        "vit_tiny_patch16_224", 48, 4
    )
    with pytest.raises(ModelError, match="did you mean"):
        student_shape("deit_tiny_patch16_223")
