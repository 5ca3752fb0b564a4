import pytest
import torch

from kdcache.errors import ModelError
from kdcache.models.state_dicts import find_weights

WANTED = {name: torch.zeros(2) for name in ("stem.weight", "blocks.0.norm.weight", "norm.weight", "head.weight")}


def held(prefix: str = "", value: float = 1.0) -> dict[str, torch.Tensor]:
    return {prefix + name: torch.full((2,), value) for name in WANTED}


@pytest.mark.parametrize("prefix", ["", "module.", "model.net.", "a.b.c.", "module._orig_mod.backbone."])
def test_any_prefix_goes(prefix: str) -> None:
    found = find_weights({"x": {"y": held(prefix)}}, WANTED, choice=None, where="w")
    assert found.weights.keys() == WANTED.keys() and found.note is None


def test_a_name_within_another_is_no_prefix() -> None:
    """``blocks.0.norm.weight`` ends as ``norm.weight`` does."""
    assert find_weights(held(), WANTED, choice=None, where="w").left_out == ()


def test_other_names_are_left_to_the_architectures_filter() -> None:
    given = {"module.layers.1.w": torch.zeros(2), "module.layers.2.w": torch.zeros(2)}
    assert list(find_weights(given, WANTED, choice=None, where="w").weights) == ["layers.1.w", "layers.2.w"]


def test_the_average_is_preferred_and_that_is_reported() -> None:
    found = find_weights({"model": held(), "ema_model": held(value=2)}, WANTED, choice=None, where="w")
    assert found.weights["norm.weight"][0] == 2 and found.note == "took ema_model, not model"
    assert find_weights({"model": held(), "ema_model": held()}, WANTED, choice="model", where="w").note is None


def test_two_averages_are_not_chosen_between() -> None:
    with pytest.raises(ModelError, match="several sets of weights that fit: ema_a or ema_b; choose one with w:NAME"):
        find_weights({"ema_a": held(), "ema_b": held()}, WANTED, choice=None, where="w")


def test_an_optimizers_state_is_no_weights() -> None:
    with pytest.raises(ModelError, match=r"w: holds no tensors \(optimizer\)"):
        find_weights({"optimizer": held()}, WANTED, choice=None, where="w")
