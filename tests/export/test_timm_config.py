"""What timm needs to build a student again, and nothing that it knows of its own weights for that architecture."""

import timm

from kdcache.export.timm_config import timm_config
from kdcache.students.student import StudentSpec, build_student
from kdcache.views import EvalView

VIEW = EvalView(size=32, crop_pct=0.9, interpolation="bilinear", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def config_of(name: str, names: tuple[str, ...] = (), size: int = 32, **kwargs: object) -> dict:
    spec = StudentSpec(name=name, kwargs=kwargs, num_classes=3, image_size=size)
    view = EvalView(size=size, crop_pct=0.9, interpolation="bilinear", mean=VIEW.mean, std=VIEW.std)
    return timm_config(build_student(spec).model, spec, view, names)


def test_a_vit() -> None:
    config = config_of("test_vit.r160_in1k", ("a", "b", "c"), depth=1)
    assert (config["architecture"], config["num_classes"], config["num_features"]) == ("test_vit", 3, 64)
    assert config["model_args"] == {"img_size": 32, "depth": 1}
    assert config["label_names"] == ["a", "b", "c"]
    cfg = config["pretrained_cfg"]
    assert (cfg["input_size"], cfg["fixed_input_size"], cfg["num_classes"]) == ([3, 32, 32], True, 3)
    assert (cfg["interpolation"], cfg["crop_pct"], cfg["crop_mode"]) == ("bilinear", 0.9, "center")
    assert (cfg["mean"], cfg["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert (cfg["classifier"], cfg["first_conv"]) == ("head", "patch_embed.proj")


def test_a_convnet_takes_any_size() -> None:
    config = config_of("test_resnet")
    assert config["model_args"] == {}
    assert not config["pretrained_cfg"]["fixed_input_size"]
    assert config["pretrained_cfg"]["pool_size"] is None
    assert config["pretrained_cfg"]["classifier"] == "fc"
    known = timm.get_pretrained_cfg("test_resnet")
    assert known is not None
    assert config_of("test_resnet", size=known.input_size[-1])["pretrained_cfg"]["pool_size"] == known.pool_size


def test_both_heads_of_a_distilled_model() -> None:
    config = config_of("deit_tiny_distilled_patch16_224", patch_size=16, depth=1)
    assert config["pretrained_cfg"]["classifier"] == ("head", "head_dist")


def test_names_that_are_not_one_for_each_class_are_left_out() -> None:
    assert "label_names" not in config_of("test_vit", ("a", "b"))


def test_nothing_of_timms_own_weights() -> None:
    known = timm.get_pretrained_cfg("deit_tiny_patch16_224")
    assert known is not None
    assert known.hf_hub_id
    config = config_of("deit_tiny_patch16_224", depth=1)
    assert not {"url", "hf_hub_id", "license", "origin_url", "paper_ids", "tag"} & set(config["pretrained_cfg"])


def test_an_argument_that_is_none_is_left_out() -> None:
    assert config_of("test_vit", global_pool=None, depth=1)["model_args"] == {"img_size": 32, "depth": 1}
