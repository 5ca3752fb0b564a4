"""Changed students by name of timm."""

import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest
import timm
import torch

from kdcache.errors import ModelError
from kdcache.students import CHANGES
from kdcache.students.lift import LiftChange
from kdcache.students.low_rank import LowRank
from kdcache.students.register import registered_arguments, registered_name
from kdcache.students.student import StudentSpec, build_student, rebuild_student

BASE = "vit_tiny_patch16_224"
SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3}


def test_every_change_has_a_name() -> None:
    names = {f"kdcache_{name.replace('-', '_')}" for name in CHANGES if name != "none"}
    assert set(timm.list_models("kdcache_*")) == names
    assert registered_name(LowRank(rank=2)) in names


@pytest.mark.slow
def test_one_import_registers_them() -> None:
    code = "import kdcache.students.register, timm\nassert 'kdcache_lift' in timm.list_models()"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.filterwarnings("ignore:.*pretrained configuration.*")
def test_it_builds_what_the_run_builds() -> None:
    change = LiftChange(width=24, init="released")
    torch.manual_seed(0)
    spec = StudentSpec(name=BASE, kwargs=SMALL, num_classes=5, image_size=16, change=change)
    expected = build_student(spec).model.state_dict()
    torch.manual_seed(0)
    model = timm.create_model("kdcache_lift", num_classes=5, **registered_arguments(change, BASE, SMALL))
    torch.testing.assert_close(model.state_dict(), expected, rtol=0, atol=0)


def test_arguments_are_plain_and_need_no_weights() -> None:
    arguments = registered_arguments(LowRank(rank=2), BASE, SMALL)
    assert arguments["base_args"] == SMALL
    assert arguments["settings"]["rank"] == 2
    assert arguments["settings"]["init"] == "random"
    assert msgspec.json.decode(msgspec.json.encode(arguments)) == arguments


def test_further_arguments_are_those_of_the_base() -> None:
    arguments = registered_arguments(LiftChange(width=8), BASE, SMALL)
    model = timm.create_model("kdcache_lift", num_classes=2, in_chans=1, depth=2, **arguments)
    assert len(model.trunk.blocks) == 2
    assert model(torch.zeros(1, 1, 16, 16)).shape == (1, 2)


@pytest.mark.filterwarnings("ignore:.*pretrained configuration.*")
@pytest.mark.parametrize("classes", [3, 0, 2000])
def test_ranks_of_a_budget_fit_another_head(classes: int) -> None:
    change = LowRank(budget=0.2, init="random")
    base = {**SMALL, "embed_dim": 48, "depth": 3}
    arguments = registered_arguments(change, BASE, base)
    spec = StudentSpec(name=BASE, kwargs=base, num_classes=1000, image_size=16, change=change)
    again = {
        "timm": timm.create_model("kdcache_low_rank", num_classes=classes, **arguments),
        "kdcache": rebuild_student(replace(spec, num_classes=max(classes, 1))).model,
    }
    weights = {name: each for name, each in build_student(spec).model.state_dict().items() if "head" not in name}
    assert any(name.endswith("mlp.fc1.1.weight") for name in weights)
    for model in again.values():
        assert set(model.load_state_dict(weights, strict=False).missing_keys) <= {"head.weight", "head.bias"}


def test_settings_that_there_are_not() -> None:
    with pytest.raises(ModelError, match="no width yet"):
        timm.create_model("kdcache_lift", **registered_arguments(replace(LiftChange()), BASE, SMALL))
    with pytest.raises(msgspec.ValidationError):
        timm.create_model("kdcache_lift", base=BASE, base_args=SMALL, settings={"width": "wide"})
