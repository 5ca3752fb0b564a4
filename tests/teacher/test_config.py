from pathlib import Path
from typing import Any

import pytest

from kdcache.teacher.config import BASE_SETTINGS, ExtractConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": 0}, "views must be at least 1, got 0"),
        ({"views": 2}, "eval draws nothing"),
        ({"views": 101, "view_recipe": "rrc-flip"}, "at most 100"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"image_timeout_s": float("nan")}, "image_timeout_s must be above 0, got nan"),
        ({"max_error": 0.0}, "max_error must be above 0"),
        ({"tar_keys": "dots"}, "tar_keys must be one of first-dot, last-dot"),
        ({"order": "random"}, "shuffle, source, got 'random'"),
        ({"view_recipe": "mae"}, "eval, rrc-flip, deit, got 'mae'"),
        ({"precision": "fp8"}, "auto, fp32, bf16, fp16"),
        ({"taps": ()}, "at least one tap"),
        ({"max_bad": 2.0}, "between 0 and 1"),
        ({"data": None}, "needs data and a teacher"),
        ({"teacher": None}, "needs data and a teacher"),
        ({"pixels": "png"}, "pixels must be replay, raw, jpeg or jpeg:QUALITY"),
        ({"pixels": "jpeg:0"}, "pixels must be"),
        ({"pixels": "jpeg:101"}, "pixels must be"),
        ({"pixels": "jpeg:"}, "pixels must be"),
        ({"group": "Wide"}, "group 'Wide': use lower-case"),
        ({"group": "samples"}, "group 'samples'"),
        ({"group": "pixels"}, "group 'pixels'"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExtractConfig(**{"data": "digits", "out": Path("c"), "teacher": "t", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "nothing to add"),
        ({"pixels": "jpeg"}, "jpeg cannot be added"),
        ({"teacher": "t", "pixels": "jpeg:80"}, "jpeg cannot be added"),
        ({"teacher": "t", "views": 2, "view_recipe": "rrc-flip"}, "views, view_recipe: fixed by the base"),
        ({"teacher": "t", "view_params": {"flip": 0}}, "view_params: fixed"),
        ({"teacher": "t", "images": "reference"}, "images: fixed"),
    ],
)
def test_what_cannot_be_added(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExtractConfig(**{"out": Path("c"), "add": True, **changes})


@pytest.mark.parametrize("name", BASE_SETTINGS)
def test_every_setting_of_the_base_is_refused_with_add(name: str) -> None:
    changed: dict[str, Any] = {
        "views": 2, "view_recipe": "rrc-flip", "view_params": {"flip": 0}, "image_size": 32,
        "interpolation": "bilinear", "limit": 3, "order": "source", "images": "reference", "split": "val",
        "shard_samples": 3, "max_bad": 0.5, "per_class": "2", "per_class_seed": 1,
        "class_order": "sorted", "class_map": Path("m"), "tar_keys": "last-dot", "image_member": "jpg",
        "label_member": "cls", "key_prefix": "tar", "labels": Path("l"), "exif": "apply", "alpha_color": "white",
    }  # fmt: skip
    # Settings that are refused alone for another reason.
    more = {"views": {"view_recipe": "rrc-flip"}, "per_class_seed": {"per_class": "2"}}.get(name, {})
    with pytest.raises(ValueError, match=f"{name}.*fixed by the base"):
        ExtractConfig(out=Path("c"), add=True, teacher="t", **{name: changed[name], **more})


def test_a_colour_is_one_however_it_is_spelled() -> None:
    for text in ("white", "#fff", "#FFFFFF", "rgb(255,255,255)"):
        assert ExtractConfig(out=Path("c"), data="d", teacher="t", alpha_color=text).alpha == "#ffffff"
    assert ExtractConfig(out=Path("c"), data="d", teacher="t").alpha == ""
    for text in ("", "whyte", "#ffffff00", "transparent", "255"):
        with pytest.raises(ValueError, match="wanted a colour such as white"):
            ExtractConfig(out=Path("c"), data="d", teacher="t", alpha_color=text)


def test_groups_and_qualities_have_defaults() -> None:
    config = ExtractConfig(out=Path("c"), data="digits", teacher="hf-hub:A/cait_s24_224", pixels="jpeg")
    assert (config.group_name, config.jpeg_quality) == ("hf-hub-a-cait-s24-224", 95)
    assert ExtractConfig(out=Path("c"), data="d", teacher="t", pixels="jpeg:80").jpeg_quality == 80
    assert ExtractConfig(out=Path("c"), data="d", teacher="t", pixels="raw").jpeg_quality == 0
    assert ExtractConfig(out=Path("c"), add=True, pixels="raw").teacher is None
