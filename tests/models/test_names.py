import json
from pathlib import Path

import pytest
import timm
import timm.data
import torch
from huggingface_hub import constants
from timm.models import save_for_hf

from kdcache.errors import ModelError
from kdcache.models import create_timm_model, load_weights, resolve_name, weights_sha256
from kdcache.models.hub import hub_problem
from kdcache.models.names import TimmModel, is_elsewhere, read_settings, with_square_size
from tests.models.test_hub import put_into_hub_cache

KWARGS = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 3}
MEAN = (0.1, 0.2, 0.3)


def save_fine_tuned(folder: Path) -> torch.nn.Module:
    """A small model as timm's scripts leave it for the hub: five classes and a normalisation of its own."""
    torch.manual_seed(3)
    overlay = {"mean": MEAN, "crop_pct": 0.8, "num_classes": 5, "input_size": (3, 16, 16)}
    model = timm.create_model("vit_tiny_patch16_224", pretrained_cfg_overlay=overlay, **KWARGS)
    save_for_hf(model, folder, model_args=KWARGS, safe_serialization=True)
    return model


def built(text: str) -> torch.nn.Module:
    found = resolve_name(text)
    model = create_timm_model(found.model.name, kwargs=found.model.kwargs, settings=found.model.settings)
    assert found.weights is not None
    load_weights(model, found.weights)
    return model


def test_a_folder_that_timm_saved_is_the_model_with_its_classes_and_normalisation(tmp_path: Path) -> None:
    saved = save_fine_tuned(tmp_path / "fine-tuned")
    found = resolve_name(f"local-dir:{tmp_path / 'fine-tuned'}")
    assert (found.model.name, found.title) == ("vit_tiny_patch16_224", "fine-tuned")
    assert {**found.model.kwargs, **KWARGS, "num_classes": 5} == found.model.kwargs
    model = built(f"local-dir:{tmp_path / 'fine-tuned'}")
    assert weights_sha256(model) == weights_sha256(saved)
    config = timm.data.resolve_model_data_config(model)
    assert (config["mean"], config["crop_pct"], config["input_size"]) == (MEAN, 0.8, (3, 16, 16))


@pytest.mark.parametrize("prefix", ["hf-hub:", "hf_hub:"])
def test_a_model_on_the_hub_is_the_same(prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_problem.cache_clear()
    saved = save_fine_tuned(tmp_path / "made")
    put_into_hub_cache(tmp_path / "hub", "org/birds", {p.name: p.read_bytes() for p in (tmp_path / "made").iterdir()})
    found = resolve_name(f"{prefix}org/birds")
    assert (found.title, found.model.settings["hf_hub_id"]) == ("birds", "org/birds")
    assert weights_sha256(built(f"{prefix}org/birds")) == weights_sha256(saved)
    with pytest.raises(ModelError, match=r"hf-hub:org/fish: config\.json is not in the local cache"):
        resolve_name(f"{prefix}org/fish")
    hub_problem.cache_clear()


@pytest.mark.parametrize("prefix", ["timm/", "hf-hub:timm/", "hf_hub:timm/"])
def test_timms_own_models_are_known_by_their_name(prefix: str) -> None:
    """Nothing is asked for: the name is that of the same weights."""
    name = "vit_tiny_patch16_224.augreg_in21k"
    assert is_elsewhere(f"{prefix}{name}")
    found = resolve_name(f"{prefix}{name}")
    assert (found.model, found.weights, found.title) == (TimmModel(name), None, name)


def test_a_plain_name_is_itself() -> None:
    assert not is_elsewhere("resnet18")
    assert resolve_name("resnet18").model == TimmModel("resnet18")
    with pytest.raises(ModelError, match="a model outside timm"):
        create_timm_model("hf-hub:org/name")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json there"),
        ("[1", "not strict JSON"),
        ({"model_type": "vit"}, "names no architecture"),
        ({"architecture": "resnet18", "pretrained_cfg": [1]}, "are no tables"),
        ({"architecture": "resnet18", "pretrained_cfg": {"mean": "x"}}, "not a configuration of timm"),
        ({"architecture": "resnet18", "pretrained_cfg": {"std": [0, 1, 1]}}, "not a configuration of timm"),
    ],
)
def test_other_folders_are_refused(config: object, message: str, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ModelError, match=message):
        resolve_name(f"local-dir:{tmp_path}")


def test_a_strangers_configuration_chooses_no_file(tmp_path: Path) -> None:
    """What could load something is left out of the settings, and refused among the arguments."""
    assert read_settings({"file": "/x", "url": "u", "state_dict": {}, "custom_load": True}, where="here") == {}
    config = {"architecture": "resnet18", "model_args": {"checkpoint_path": "/x"}, "pretrained_cfg": {"file": "/x"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = resolve_name(f"local-dir:{tmp_path}")
    assert "file" not in found.model.settings
    with pytest.raises(ModelError, match="checkpoint_path is not one of the architecture"):
        create_timm_model(found.model.name, kwargs=found.model.kwargs)


@pytest.mark.parametrize(("size", "expected"), [(32, 32), ([32, 32], 32), ((16,), 16)])
def test_a_square_may_be_written_with_two_sides(size: object, expected: int) -> None:
    assert with_square_size({"depth": 1, "img_size": size}, where="m") == {"depth": 1, "img_size": expected}
    assert with_square_size({"depth": 1}, where="m") == {"depth": 1}


@pytest.mark.parametrize("size", [[32, 16], [], "large", 0, -1, 1.5, [[1, 2], [1, 2]], {"a": 1}])
def test_other_shapes_are_refused(size: object) -> None:
    with pytest.raises(ModelError, match=r"m: img_size=.* is refused; .*wanted"):
        with_square_size({"img_size": size}, where="m")


def test_the_older_form_of_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 3, "mean": MEAN}))
    found = resolve_name(f"local-dir:{tmp_path}").model
    assert (found.kwargs, found.settings["mean"]) == ({"num_classes": 3}, MEAN)
