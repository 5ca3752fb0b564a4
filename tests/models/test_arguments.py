from typing import Any

import pytest
import timm

from kdcache.errors import ModelError
from kdcache.models import create_timm_model
from kdcache.models.arguments import check_arguments

VIT = "vit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (VIT, {"img_size": 16, "depth": 1, "qkv_bias": False, "mlp_ratio": 2.5, "pos_embed": None}),
        (VIT + ".augreg_in21k", {"img_size": [32, 16], "global_pool": "avg", "reg_tokens": 4, "act_layer": "gelu"}),
        ("deit_tiny_distilled_patch16_224", {"depth": 2, "drop_path_rate": 0.1}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "num_heads": [1, 2], "window_size": 2}),
        ("resnet18", {"drop_rate": 0.1, "stem_type": "deep", "output_stride": 16}),
        ("efficientnet_b0", {"bn_eps": 1e-3, "drop_path_rate": 0.1}),
        ("regnety_002", {"act_layer": "silu", "zero_init_last": False}),
        ("maxvit_tiny_tf_224", {"img_size": 64, "drop_path_rate": 0.2}),
        ("multi_depth_tiny", {"in_chans": 1}),
    ],
)  # fmt: skip
def test_settings_of_an_architecture_pass(name: str, arguments: dict[str, Any]) -> None:
    check_arguments(name, arguments)


@pytest.mark.parametrize("name", [VIT, "resnet18", "swin_tiny_patch4_window7_224", "maxvit_tiny_tf_224", "regnety_002"])
@pytest.mark.parametrize(
    "argument",
    [
        "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "cache_dir",
        "pretrained_filter_fn", "feature_cfg", "kwargs_filter", "model_name", "scriptable", "device",
    ],
)  # fmt: skip
def test_what_could_load_a_file_is_refused_by_name(name: str, argument: str) -> None:
    for value in ("w.pth", True, 1, None, {"file": "w.pth"}):
        with pytest.raises(ModelError, match=f"{argument} is not one of the architecture.*allowed are settings"):
            check_arguments(name, {"depth": 1, argument: value} if name == VIT else {argument: value})


@pytest.mark.parametrize(
    "value",
    [
        "torch.nn.GELU", "../w.pth", "/etc/passwd", "https://example.org/w.pth", "hf-hub:some/one", "a b", "x" * 65,
        float("nan"), float("inf"), b"gelu", print, ["gelu", "os.system"], {"file": "w.pth"}, [[[[[1]]]]], [0] * 257,
    ],
    ids=str,
)  # fmt: skip
def test_values_that_are_no_settings_are_refused(value: object) -> None:
    with pytest.raises(ModelError, match=r"act_layer=.* is refused; allowed are numbers"):
        check_arguments(VIT, {"act_layer": value})


def test_unknown_arguments_suggest_known_ones() -> None:
    with pytest.raises(ModelError, match=r"does not take these arguments: depht; did you mean depth"):
        check_arguments(VIT, {"depht": 2})
    with pytest.raises(ModelError, match="features_only; see the model"):
        check_arguments("resnet18", {"features_only": True})


def test_a_changed_model_checks_the_model_it_is_made_from() -> None:
    import kdcache.students.register  # noqa: F401  registers kdcache_lift

    settings = {"base": VIT, "settings": {"width": 24}, "num_classes": 5}
    plain = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3}
    create_timm_model("kdcache_lift", kwargs={**settings, "base_args": plain})
    with pytest.raises(ModelError, match="checkpoint_path is not one of the architecture"):
        create_timm_model("kdcache_lift", kwargs={**settings, "base_args": {**plain, "checkpoint_path": "w"}})
    # As timm builds it from a config.json that somebody else wrote.
    with pytest.raises(ModelError, match="checkpoint_path is not one of the architecture"):
        timm.create_model("kdcache_lift", **settings, base_args={**plain, "checkpoint_path": "w"})
