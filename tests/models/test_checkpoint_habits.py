"""What training scripts leave on disk: each file loads with equal weights, or is refused in one clear sentence."""

import argparse
import json
import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from timm.utils import CheckpointSaver
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from kdcache.errors import ModelError
from kdcache.models import create_timm_model, load_weights

KWARGS = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 5}
State = dict[str, Tensor]


def vit(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return create_timm_model("vit_tiny_patch16_224", kwargs=KWARGS)


RAW, AVERAGED = vit(1).state_dict(), vit(2).state_dict()


def under(prefix: str, state: State = RAW) -> State:
    return {prefix + name: each for name, each in state.items()}


def save(value: object, **settings: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.save(value, folder / "w.pth", **settings)
        return folder / "w.pth"

    return write


def timm_training(folder: Path) -> Path:
    model = vit(1)
    average = ModelEmaV3(model)
    average.module.load_state_dict(AVERAGED)
    CheckpointSaver(
        model=model, optimizer=torch.optim.AdamW(model.parameters()), args=argparse.Namespace(model="vit", lr=1e-3),
        model_ema=average, checkpoint_dir=str(folder), recovery_dir=str(folder), max_history=1,
    ).save_checkpoint(0, 50.0)  # fmt: skip
    return folder / "last.pth.tar"


def hub_folder(folder: Path) -> Path:
    safetensors.torch.save_file(RAW, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def safetensors_by_another_name(folder: Path) -> Path:
    safetensors.torch.save_file(RAW, folder / "w.bin")
    return folder / "w.bin"


class Settings(dict):
    """As a trainer's attribute dictionary, which weights_only does not know."""


class Logger:
    def __init__(self) -> None:
        self.folder = PurePosixPath("runs/one")
        self.best = {"top1": np.float64(71.5)}


LIGHTNING = {
    "epoch": 3, "global_step": 120, "pytorch-lightning_version": "2.4.0", "hyper_parameters": Settings(lr=1e-3),
    "callbacks": {"ModelCheckpoint": {"best_model_path": PurePosixPath("a/b.ckpt")}}, "loops": {}, "lr_schedulers": [],
    "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
}  # fmt: skip
BF16 = {name: each.bfloat16() for name, each in RAW.items()}
HALF = {name: each.half() for name, each in RAW.items()}
EXTRA = {"criterion.weight": torch.ones(5), "queue": torch.zeros(4, 4)}

# Name: how it is written, which weights come out, and what is reported.
LOADS: dict[str, tuple[Callable[[Path], Path], State, str | None]] = {
    "plain": (save(RAW), RAW, None),
    "timm training": (timm_training, AVERAGED, "took state_dict_ema, not state_dict"),
    "ema": (save({"state_dict": RAW, "state_dict_ema": AVERAGED}), AVERAGED, "took state_dict_ema, not state_dict"),
    "deit": (
        save({"model": RAW, "model_ema": AVERAGED, "args": argparse.Namespace(lr=1), "epoch": 3}),
        AVERAGED, "took model_ema, not model",
    ),
    "lightning": (save({**LIGHTNING, "state_dict": under("model.")}), RAW, None),
    "lightning net": (save({**LIGHTNING, "state_dict": under("net.") | EXTRA}), RAW, "left out 2 tensors .*criterion"),
    "lightning student": (save({"state_dict": under("student.model.")}), RAW, None),
    "compiled": (save(under("_orig_mod.")), RAW, None),
    "compiled in lightning": (save({"state_dict": under("model._orig_mod.")}), RAW, None),
    "compiled blocks": (
        save({name.replace("blocks.0.", "blocks.0._orig_mod."): each for name, each in RAW.items()}), RAW, None,
    ),
    "ddp": (save({"state_dict": under("module.")}), RAW, None),
    "ddp of compiled": (save({"model": under("module._orig_mod.")}), RAW, None),
    "fsdp": (save(under("_fsdp_wrapped_module.")), RAW, None),
    "dino": (
        save({
            "student": under("module.backbone.") | {"module.head.mlp.weight": torch.ones(2)},
            "teacher": under("backbone.", AVERAGED) | {"head.mlp.weight": torch.ones(2)},
            "args": argparse.Namespace(arch="vit_tiny"), "dino_loss": {"center": torch.zeros(1, 8)},
        }),
        AVERAGED, "took teacher, not student; left out 1 tensors",
    ),
    "model_state_dict": (save({"model_state_dict": RAW, "optimizer_state_dict": {"state": {}}, "loss": 0}), RAW, None),
    "net": (save({"net": RAW, "acc": 91.2, "epoch": 100}), RAW, None),
    "nested": (save({"checkpoint": {"state": {"network": under("module.")}}}), RAW, None),
    "swa of torch": (save(under("module.") | {"n_averaged": torch.tensor(7)}), RAW, "left out 1 tensors .*n_averaged"),
    "moco": (
        save({"state_dict": under("module.base_encoder.") | under("module.momentum_encoder.", AVERAGED)}),
        AVERAGED, "took state_dict/module.momentum_encoder, not state_dict/module.base_encoder",
    ),
    "ema_pytorch": (
        save(under("online_model.") | under("ema_model.", AVERAGED) | {"step": torch.tensor(1)}),
        AVERAGED, "took ema_model, not online_model",
    ),
    "ema as a dictionary": (
        save({"net": RAW, "ema": {"decay": 0.99, "shadow": AVERAGED}}), AVERAGED, "took ema/shadow, not net",
    ),
    "optimizer of the same shapes": (
        save({"model": RAW, "optimizer": {"state": dict(enumerate({"exp_avg": each} for each in RAW.values()))}}),
        RAW, None,
    ),
    "deepspeed": (save({"module": RAW, "optimizer": None, "ds_version": "0.14"}), RAW, None),
    "bf16": (save({name: each.bfloat16() for name, each in RAW.items()}), BF16, None),
    "fp64": (save({name: each.double() for name, each in RAW.items()}), RAW, None),
    "state of the random numbers": (save({"state_dict": RAW, "rng": torch.get_rng_state()}), RAW, None),
    "parameters": (save({"state_dict": OrderedDict((k, nn.Parameter(v)) for k, v in RAW.items())}), RAW, None),
    "old format": (save({"state_dict": RAW}, _use_new_zipfile_serialization=False), RAW, None),
    "old format with args": (
        save({"model": RAW, "args": argparse.Namespace(lr=1)}, _use_new_zipfile_serialization=False), RAW, None,
    ),
    "own classes beside": (save({"model": RAW, "logger": Logger(), "log": SimpleNamespace(step=3)}), RAW, None),
    "numpy and paths beside": (
        save({"model": RAW, "best": np.float64(3), "curve": np.arange(3.0), "out": PurePosixPath("a")}), RAW, None,
    ),
    "default dictionary": (save({"model": defaultdict(list, RAW)}), RAW, None),
    "hub folder": (hub_folder, RAW, None),
    "safetensors by another name": (safetensors_by_another_name, RAW, None),
    "half precision": (save(HALF), HALF, None),
}  # fmt: skip


@pytest.mark.parametrize("name", LOADS)
def test_it_loads(tmp_path: Path, name: str) -> None:
    write, expected, note = LOADS[name]
    model = vit(3)
    found = load_weights(model, write(tmp_path))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[key].to(value.dtype), rtol=0, atol=0)
    if note is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(note, found), found


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def cut(folder: Path) -> Path:
    path = save({"state_dict": RAW})(folder)
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def scripted(folder: Path) -> Path:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), folder / "w.pt")
    return folder / "w.pt"


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "whole module": (save(vit(1)), r"a whole object of Python \(.*save its state_dict\(\)"),
    "git lfs": (written("w.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS pointer"),
    "web page": (written("w.pth", b"\n<!DOCTYPE html><html>Not found</html>"), "a web page"),
    "json": (written("w.pth", json.dumps({"a": 1}).encode()), "JSON, not weights"),
    "empty": (written("w.safetensors", b""), "an empty file"),
    "keras": (written("w.h5", b"\x89HDF\r\n\x1a\n" + bytes(64)), "an HDF5 file"),
    "gzip": (written("w.pth.gz", b"\x1f\x8b\x08" + bytes(64)), "compressed by gzip"),
    "garbage": (written("w.pth", b"garbage"), "not a readable checkpoint"),
    "cut off": (cut, "not a readable checkpoint"),
    "cut safetensors": (written("w.safetensors", safetensors.torch.save(RAW)[:-9]), "not a readable safetensors file"),
    "optimizer alone": (
        save(torch.optim.AdamW([nn.Parameter(torch.ones(2))]).state_dict()), r"no tensors \(state, param_groups\)",
    ),
    "numbers": (save({"epoch": 3}), r"holds no tensors \(epoch\)"),
    "list": (save([1, 2]), r"holds no tensors \(list\)"),
    "two models": (
        save({"state_dict": under("first.") | under("second.", AVERAGED)}),
        "several sets of weights that fit: state_dict/first or state_dict/second; choose one with",
    ),
    "another model": (
        lambda folder: save(timm.create_model("test_resnet").state_dict())(folder), "does not fit VisionT.*: missing",
    ),
    "quantised": (
        save({name: (100 * each).to(torch.int8) for name, each in RAW.items()}), "holds int8, as quantised weights do",
    ),
    "complex": (save({name: each.to(torch.complex64) for name, each in RAW.items()}), "holds complex64"),
    "without values": (save({name: each.to("meta") for name, each in RAW.items()}), "has no dense values"),
    "sparse": (save({name: each.to_sparse() for name, each in RAW.items()}), "has no dense values"),
    "moco v1": (
        save({"state_dict": under("module.encoder_q.") | under("module.encoder_k.", AVERAGED)}),
        "several sets of weights",
    ),
    "tuple": (save((3, RAW)), r"holds no tensors \(tuple\)"),
    "lora alone": (
        save({"base_model.model.blocks.0.attn.qkv.lora_A.weight": torch.ones(4, 12)}), "does not fit .*missing",
    ),
    "half of it": (save(dict(list(RAW.items())[:16])), "does not fit .*missing: blocks"),
    "a model inside": (save({"model": vit(1), "epoch": 3}), r"holds no tensors \(model, epoch\)"),
    "best and last": (save({"best": RAW, "last": AVERAGED}), "several sets of weights that fit: best or last"),
    "numpy archive": (
        lambda folder: (np.savez(folder / "w.npz", a=np.ones(2)), folder / "w.npz")[1], "not a readable checkpoint",
    ),
    "shards": (
        lambda folder: (written("model.safetensors.index.json", b"{}")(folder), folder)[1], "cut into several files",
    ),
    "folder without weights": (lambda folder: folder, "a folder without model.safetensors"),
    "torchscript": (scripted, "TorchScript"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_it_is_refused_clearly(tmp_path: Path, name: str) -> None:
    write, message = REFUSED[name]
    path = write(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(vit(3), path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\x1b" not in text and "\n" not in text and len(text) < 600


def test_a_url_is_named_as_one() -> None:
    with pytest.raises(ModelError, match=r"^https://a/b.pth: URLs are not read; download"):
        load_weights(vit(3), "https://a/b.pth")


@pytest.mark.parametrize(("choice", "expected"), [("state_dict/first", RAW), ("state_dict/second", AVERAGED)])
def test_one_of_two_models_is_chosen_by_name(tmp_path: Path, choice: str, expected: State) -> None:
    path, model = save({"state_dict": under("first.") | under("second.", AVERAGED)})(tmp_path), vit(3)
    load_weights(model, f"{path}:{choice}")
    torch.testing.assert_close(model.state_dict()["head.weight"], expected["head.weight"])


def test_raw_weights_are_taken_where_they_are_named(tmp_path: Path) -> None:
    path, model = timm_training(tmp_path), vit(3)
    load_weights(model, f"{path}:state_dict")
    torch.testing.assert_close(model.state_dict()["head.weight"], RAW["head.weight"])
    with pytest.raises(ModelError, match="no weights named 'nothing'; it holds state_dict, state_dict_ema"):
        load_weights(model, f"{path}:nothing")
