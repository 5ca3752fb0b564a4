from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from kdcache.errors import ModelError, TapError, UsageError
from kdcache.models import TimmModel, parse_tap
from kdcache.teacher.model import Teacher
from tests.conftest import TEACHER, TEACHER_KWARGS


def teacher(**changes: Any) -> Teacher:
    settings: dict[str, Any] = {"image_size": None, "seed": 0, "device": torch.device("cpu"), "precision": "auto"}
    return Teacher(TimmModel(TEACHER, TEACHER_KWARGS), "random", **{**settings, **changes})


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
TAPS = [parse_tap("blocks.-1/patch"), parse_tap("blocks.0/prefix"), parse_tap("head/logits")]


def test_taps_report_their_shapes_and_grids() -> None:
    facts = teacher().set_taps(TAPS)
    assert [(str(each.tap), each.shape, each.grid) for each in facts] == [
        ("blocks.1/patch", (16, 24), (4, 4)),
        ("blocks.0/prefix", (1, 24), ()),
        ("head/logits", (10,), ()),
    ]


def test_its_outputs_are_those_of_the_model() -> None:
    made = teacher()
    made.set_taps(TAPS)
    outputs = made.run(PIXELS)
    images = (torch.from_numpy(PIXELS).float() / 255 - 0.5).permute(0, 3, 1, 2) / 0.5
    with torch.inference_mode():
        logits = made.model(images)
    np.testing.assert_allclose(outputs["head/logits"], logits.numpy(), rtol=1e-5, atol=1e-6)
    assert outputs["blocks.1/patch"].dtype == np.float32


def test_random_weights_are_the_same_everywhere_and_no_students() -> None:
    hashes = [teacher(seed=seed).facts.weights_sha256 for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    torch.manual_seed(0)
    import timm

    from kdcache.models import weights_sha256

    assert weights_sha256(timm.create_model(TEACHER, **TEACHER_KWARGS)) != hashes[0]


@pytest.mark.parametrize("around", [1, 2])
def test_the_same_batch_gives_the_same_bits_whatever_the_threads_around(around: int) -> None:
    """torchrun sets one OpenMP thread a process; a worker must give what a process on its own gives."""
    made, again = teacher(cpu_threads=2), teacher(cpu_threads=2)
    made.set_taps(TAPS)
    expected = made.run(PIXELS)
    torch.set_num_threads(around)
    again.set_taps(TAPS)
    torch.set_num_threads(around)
    for tap, values in again.run(PIXELS).items():
        np.testing.assert_array_equal(values, expected[tap])


def test_facts_for_the_fingerprint() -> None:
    facts = teacher().facts
    assert (facts.name, facts.weights, facts.precision, facts.device) == (TEACHER, "random", "fp32", "cpu")
    assert facts.kwargs == TEACHER_KWARGS
    assert facts.pretrained_cfg["interpolation"] == "bicubic"
    assert "url" not in facts.pretrained_cfg
    assert (facts.mean, facts.std) == ([0.5] * 3, [0.5] * 3)
    assert facts.num_blocks == 2


def test_blocks_are_counted_as_taps_count_them() -> None:
    """So that blocks.-1 of a manifest is the block that the teacher resolves it to, for maps too."""
    settings: dict[str, Any] = {"image_size": 32, "seed": 0, "device": torch.device("cpu"), "precision": "auto"}
    made = Teacher(TimmModel("mobilenetv3_small_050"), "random", **settings)
    [last] = made.set_taps([parse_tap("blocks.-1/patch")])
    assert last.tap.block == made.facts.num_blocks - 1


def test_pixels_are_normalised_as_this_teacher_wants_them() -> None:
    """Not as the base has it: a second teacher of a cache may want other means than the first."""
    made = teacher()
    made.facts = replace(made.facts, mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0])
    made.set_taps(TAPS)
    images = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        logits = made.model(images)
    np.testing.assert_allclose(made.run(PIXELS)["head/logits"], logits.numpy(), rtol=1e-5, atol=1e-6)


def test_autocast_is_applied() -> None:
    made = teacher(precision="bf16")
    made.set_taps(TAPS)
    single = teacher()
    single.set_taps(TAPS)
    difference = np.abs(made.run(PIXELS)["blocks.1/patch"] - single.run(PIXELS)["blocks.1/patch"]).max()
    assert 0 < difference < 0.1


def test_sizes_that_contradict() -> None:
    with pytest.raises(UsageError, match="contradicts teacher_kwargs img_size=16"):
        teacher(image_size=32)
    assert teacher(image_size=16).image_size == 16


def test_a_teacher_whose_forward_gives_other_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = teacher()
    forward = made.model.forward
    monkeypatch.setattr(made.model, "forward", lambda images: 2 * forward(images))
    with pytest.raises(TapError, match="other logits than its forward"):
        made.set_taps(TAPS)
    made.set_taps(TAPS[:2])


def test_models_that_cannot_be_teachers() -> None:
    settings: dict[str, Any] = {"image_size": 32, "seed": 0, "device": torch.device("cpu"), "precision": "auto"}
    with pytest.raises(TapError, match="no prefix tokens"):
        Teacher(TimmModel("resnet18"), "random", **settings).set_taps([parse_tap("blocks.-1/prefix")])
    with pytest.raises(ModelError, match="does not take RGB images of 32 x 32 pixels"):
        Teacher(TimmModel("resnet18", {"in_chans": 1}), "random", **settings).set_taps(TAPS[2:])
