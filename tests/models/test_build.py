from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants

from kdcache.errors import ModelError, Remedy
from kdcache.models import create_timm_model, load_weights, num_trained_classes, weights_sha256
from kdcache.models.build import size_arguments
from kdcache.models.hub import hub_problem
from tests.models.test_hub import put_into_hub_cache

KWARGS = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 3, "num_classes": 5}


def vit(**changes: object) -> torch.nn.Module:
    return create_timm_model("vit_tiny_patch16_224", kwargs={**KWARGS, **changes})


def test_unknown_names_suggest_known_ones() -> None:
    with pytest.raises(ModelError, match="did you mean cait_s24_224"):
        create_timm_model("cait_s24_244")


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ModelError, match=r"does not take these arguments.*depht"):
        vit(depht=3)
    with pytest.raises(ModelError, match="cannot be built"):
        vit(embed_dim=25)


def test_no_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("kdcache.models.build.hub_problem", lambda: "")
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ModelError, match="did not come from the hub") as caught:
        create_timm_model("vit_tiny_patch16_224", pretrained=True)
    assert caught.value.remedy is Remedy.LOCAL_WEIGHTS


def test_weights_in_the_cache_of_the_hub_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_problem.cache_clear()
    trained = timm.create_model("test_vit.r160_in1k")
    put_into_hub_cache(
        tmp_path / "hub",
        "timm/test_vit.r160_in1k",
        {"model.safetensors": safetensors.torch.save(trained.state_dict())},
    )
    found = create_timm_model("test_vit.r160_in1k", pretrained=True)
    assert weights_sha256(found) == weights_sha256(trained)
    with pytest.raises(ModelError, match="is not in the local cache") as caught:
        create_timm_model("test_vit2.r160_in1k", pretrained=True)
    assert caught.value.remedy is Remedy.LOCAL_WEIGHTS
    hub_problem.cache_clear()


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_back(tmp_path: Path, suffix: str, wrapper: str | None) -> None:
    source, target = vit(), vit()
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(source.state_dict(), path)
    else:
        state = {f"module.{name}": value for name, value in source.state_dict().items()}
        torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    assert weights_sha256(source) != weights_sha256(target)
    load_weights(target, path)
    assert weights_sha256(source) == weights_sha256(target)


def test_the_hash_sees_one_changed_weight() -> None:
    model = vit()
    before = weights_sha256(model)
    with torch.no_grad():
        model.head.bias[0] += 1e-6
    assert weights_sha256(model) != before


def test_original_releases_go_through_timms_filter(tmp_path: Path) -> None:
    """A position embedding of another size is resized by the architecture's own filter, as timm does."""
    source = vit(img_size=32)
    safetensors.torch.save_file(source.state_dict(), tmp_path / "w.safetensors")
    target = vit()
    load_weights(target, tmp_path / "w.safetensors")
    torch.testing.assert_close(target.head.weight, source.head.weight)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"depth": 2}, "missing: blocks.1"), ({"num_classes": 6}, r"other shape: head.*\(5,\), wanted \(6,\)")],
)
def test_weights_that_do_not_fit_name_the_tensors(tmp_path: Path, changes: dict[str, int], problem: str) -> None:
    torch.save(vit().state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=problem):
        load_weights(vit(**changes), tmp_path / "w.pth")


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/tmp/kdcache-was-executed"),))


@pytest.mark.parametrize("content", ["pickle", "garbage", "no tensors", "missing"])
def test_files_that_are_no_weights(tmp_path: Path, content: str) -> None:
    path = tmp_path / "w.pth"
    if content == "pickle":
        torch.save({"model": Payload()}, path)
    elif content == "garbage":
        path.write_bytes(b"garbage")
    elif content == "no tensors":
        torch.save({"epoch": 3}, path)
    with pytest.raises(ModelError, match=r"w\.pth"):
        load_weights(vit(), path)
    assert not Path("/tmp/kdcache-was-executed").exists()


def test_which_models_must_be_told_their_size() -> None:
    assert size_arguments("deit_tiny_patch16_224", 64) == {"img_size": 64}
    assert size_arguments("resnet18", 64) == {}


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        ("vit_tiny_patch16_224", True), ("deit3_small_patch16_224.fb_in22k_ft_in1k", True), ("cait_xxs24_224", True),
        ("eva02_tiny_patch14_224", True), ("swin_tiny_patch4_window7_224", True), ("hiera_tiny_224", True),
        ("resnet18.a1_in1k", False), ("convnextv2_atto", False), ("mobilenetv3_small_050", False),
        ("mobilenetv4_conv_small_035", False),
    ],
)  # fmt: skip
def test_families_of_a_fixed_input_size_are_told(name: str, fixed: bool) -> None:
    assert size_arguments(name, 64) == ({"img_size": 64} if fixed else {})


def test_an_unknown_tag_is_refused_when_the_model_is_built() -> None:
    assert size_arguments("resnet18.nonsense", 64) == {}
    with pytest.raises(ModelError, match="Invalid pretrained tag"):
        create_timm_model("resnet18.nonsense")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "test_resnet"])
def test_the_classes_of_trained_weights_are_told(tmp_path: Path, name: str) -> None:
    model = create_timm_model(name, kwargs={"num_classes": 5})
    assert num_trained_classes(model, "hub") == 1000
    for classes, expected in ((7, 7), (0, None)):
        path = tmp_path / f"{classes}.safetensors"
        safetensors.torch.save_file(create_timm_model(name, kwargs={"num_classes": classes}).state_dict(), path)
        assert num_trained_classes(model, str(path)) == expected


@pytest.mark.parametrize(
    ("changes", "notes"),
    [
        ({}, []),
        ({"num_classes": 7}, ["its classifier is of 7 classes, the model's is of 5 and begins fresh"]),
        ({"num_classes": 0}, ["it has no classifier of the model's kind, so that the model's own begins fresh"]),
        ({"img_size": 32}, ["of another image size: pos_embed was resized from (1, 65, 24) to (1, 17, 24)"]),
        (
            {"img_size": 32, "patch_size": 8},
            ["of another patch size: patch_embed.proj.weight was resized from (24, 3, 8, 8) to (24, 3, 4, 4)"],
        ),
        ({"img_size": 32, "num_classes": 7}, ["of another image size", "its classifier is of 7 classes"]),
    ],
    ids=str,
)
def test_what_was_adapted_is_said(tmp_path: Path, changes: dict[str, int], notes: list[str]) -> None:
    torch.save(vit(**changes).state_dict(), tmp_path / "w.pth")
    said = load_weights(vit(), tmp_path / "w.pth", other_classes=True)
    assert (said is None) == (not notes)
    assert all(note in (said or "") for note in notes), said


def test_what_cannot_be_adapted_says_which_of_the_two_it_is(tmp_path: Path) -> None:
    """CaiT's positions are not resized by timm, and a teacher's classifier is not left out."""
    small = {"depth": 1, "embed_dim": 12, "num_heads": 3, "patch_size": 4, "depth_token_only": 1}
    model = create_timm_model("cait_xxs24_224", kwargs={**small, "img_size": 16, "num_classes": 5})
    other = create_timm_model("cait_xxs24_224", kwargs={**small, "img_size": 32, "num_classes": 7})
    torch.save(other.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"pos_embed .* \(it is of another image size\)") as caught:
        load_weights(model, tmp_path / "w.pth", other_classes=True)
    assert "classes" not in str(caught.value).partition("other shape")[2]
    with pytest.raises(ModelError, match=r"head.weight .* \(it is of other classes\)"):
        load_weights(model, tmp_path / "w.pth")
