import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

import kdcache.durable
from kdcache.cache import Cache
from kdcache.errors import ModelError, RunMismatchError, UsageError
from kdcache.export import export_student
from kdcache.export import write as module
from kdcache.methods.none import none
from kdcache.students.change import Change
from kdcache.students.lift import LiftChange
from kdcache.students.low_rank import LowRank
from kdcache.students.student import merge_student
from kdcache.students.weight_copy import WeightCopy
from kdcache.students.wide_last import WideLastChange
from kdcache.train.folder import load_student
from tests.export.support import WITH_KDCACHE, changed, finished, images_of, logits_of, made

FILES = ("model.safetensors", "config.json", "README.md")
VIT = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3}
DEEP = {**VIT, "depth": 4}
ALONE = ("data.codec=none", "epochs=1")
STUDENTS: dict[str, dict[str, Any]] = {
    "vit": {"student": "vit_tiny_patch16_224.augreg_in21k", "student_kwargs": {**VIT, "pos_embed": None}},
    "deit-distilled": {"student": "deit_tiny_distilled_patch16_224", "student_kwargs": {**VIT, "mlp_ratio": 2.5}},
    "resnet": {"student": "test_resnet", "student_kwargs": {"drop_rate": 0.1}},
    "convnext": {"student": "test_convnext", "student_kwargs": {}, "image_size": 32},
}
# Name: the change, and the student where it is another than a ViT.
SWIN = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2, "patch_size": 2}
CHANGES: dict[str, tuple[Change, dict[str, Any]]] = {
    "lift": (LiftChange(width=24), {}),
    "lift-resnet": (LiftChange(width=24), {"student": "test_resnet", "student_kwargs": {}}),
    "widelast": (WideLastChange(width=24), {"student": "deit_tiny_distilled_patch16_224"}),
    "widelast-released": (WideLastChange(width=48, schedule="fixed_linear", init="released"), {"student_kwargs": DEEP}),
    "widelast-swin": (WideLastChange(width=32), {"student": "swin_tiny_patch4_window7_224", "student_kwargs": SWIN}),
    "low-rank": (LowRank(rank=4), {"student_weights": "random"}),
    "low-rank-budget": (LowRank(budget=0.05, search="top", min_rank=1, rank_step=1, init="random"), {}),
}


@pytest.fixture(scope="module")
def run(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that no test may change."""
    return finished(tiny_root, tmp_path_factory.mktemp("export") / "run", *ALONE, "ema_decay=0.5", method=none())


def logits(run: Path, size: int, weights: str = "student.safetensors") -> torch.Tensor:
    """Of the run's student, in this process."""
    with torch.inference_mode():
        return load_student(run, weights=weights)[0](images_of(size))


def names_in(folder: Path) -> set[str]:
    """Of a folder, without the temporaries of writers that were killed in this very process."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".tmp")}


@pytest.mark.slow
def test_plain_timm_gives_the_same_outputs_in_a_fresh_process(tiny_cache: Cache, run: Path, tmp_path: Path) -> None:
    """One process for all: to import torch is what costs."""
    runs = {name: made(tiny_cache, tmp_path / name, *ALONE, method=none(), **each) for name, each in STUDENTS.items()}
    exports = {each: tmp_path / f"export-{name}" for name, each in runs.items()}
    for each, out in exports.items():
        export_student(each, out)
        assert names_in(out) == set(FILES)
    averaged = tmp_path / "export-ema"
    export_student(run, averaged, weights="ema")
    sizes = {out: load_student(each)[1].image_size for each, out in exports.items()}
    found = logits_of({**sizes, averaged: 16}, tmp_path)
    for each, out in exports.items():
        assert torch.equal(found[out], logits(each, sizes[out])), out
    assert torch.equal(found[averaged], logits(run, 16, "student-ema.safetensors"))
    assert not torch.equal(found[averaged], logits(run, 16))


@pytest.mark.slow
def test_changed_students_load_after_one_import(tiny_cache: Cache, tmp_path: Path) -> None:
    runs = {
        name: made(tiny_cache, tmp_path / name, *ALONE, method=changed(change), **more)
        for name, (change, more) in CHANGES.items()
    }
    exports = {each: tmp_path / f"export-{name}" for name, each in runs.items()}
    for each, out in exports.items():
        assert export_student(each, out).architecture.startswith("kdcache_"), out
        assert "import kdcache.students.register" in (out / "README.md").read_text()
    sizes = {out: load_student(each)[1].image_size for each, out in exports.items()}
    found = logits_of(sizes, tmp_path, first=WITH_KDCACHE)
    for each, out in exports.items():
        assert torch.equal(found[out], logits(each, sizes[out])), out


@pytest.mark.slow
def test_a_weight_copy_is_a_plain_timm_model(tiny_cache: Cache, tmp_path: Path) -> None:
    """Its adapters are merged, so outputs are those of the merged student to the bit, of the trained one closely."""
    more = {"student_weights": "random", "student_kwargs": DEEP}
    copies = {"enhanced": WeightCopy(rank=2), "none": WeightCopy(adapters="none")}
    for name, change in copies.items():
        made(tiny_cache, tmp_path / name, *ALONE, method=changed(change), **more)
        assert export_student(tmp_path / name, tmp_path / f"out-{name}").architecture == "vit_tiny_patch16_224"
        config = json.loads((tmp_path / f"out-{name}/config.json").read_bytes())
        assert config["model_args"] == {"img_size": 16, **DEEP, "depth": 2}
    found = logits_of({tmp_path / f"out-{name}": 16 for name in copies}, tmp_path)
    for name in copies:
        student, spec, *_ = load_student(tmp_path / name)
        merged, _ = merge_student(student, spec)
        with torch.inference_mode():
            assert torch.equal(found[tmp_path / f"out-{name}"], merged.eval()(images_of(16)))
        torch.testing.assert_close(found[tmp_path / f"out-{name}"], logits(tmp_path / name, 16), rtol=1e-4, atol=1e-5)


def test_the_head_is_new_for_other_classes(run: Path, tmp_path: Path) -> None:
    """What people do first with an export: fine-tune it."""
    export_student(run, tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=3)
    saved = safetensors.torch.load_file(tmp_path / "out/model.safetensors")
    kept = [name for name, tensor in model.state_dict().items() if torch.equal(tensor, saved[name])]
    assert set(saved) - set(kept) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", ["lift", "widelast", "low-rank-budget"])
@pytest.mark.parametrize("classes", [3, 0])
def test_the_head_of_a_changed_student_is_new_too(tiny_cache: Cache, tmp_path: Path, name: str, classes: int) -> None:
    change, more = CHANGES[name]
    more = {"student_kwargs": VIT, **more}
    export_student(made(tiny_cache, tmp_path / "run", *ALONE, method=changed(change), **more), tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=classes).eval()
    saved = safetensors.torch.load_file(tmp_path / "out/model.safetensors")
    held = model.state_dict()
    lost = [name for name in saved if name not in held or not torch.equal(held[name], saved[name])]
    assert lost and all(name.startswith("head") for name in lost)
    tokens = model.forward_features(images_of(16))
    assert model(images_of(16)).shape == (7, classes or model.num_features)
    assert model.forward_head(tokens, pre_logits=True).shape == (7, model.num_features)
    model.reset_classifier(11)
    assert model(images_of(16)).shape == (7, 11)


def test_what_it_returns(run: Path, tmp_path: Path) -> None:
    done = export_student(run, tmp_path / "out")
    assert done.files == ("model.safetensors", "README.md", "config.json")
    assert done.architecture == "vit_tiny_patch16_224"
    assert done.num_parameters == sum(each.numel() for each in load_student(run)[0].parameters())
    assert done.weights_sha256 in (tmp_path / "out/README.md").read_text()


def test_exporting_leaves_torchs_random_state(run: Path, tmp_path: Path) -> None:
    load_student(run)
    torch.manual_seed(5)
    load_student(run)
    expected = torch.rand(3)
    torch.manual_seed(5)
    export_student(run, tmp_path / "out")
    assert torch.equal(torch.rand(3), expected)


def test_another_export_is_replaced_only_when_asked(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_student(run, out)
    before = (out / "model.safetensors").read_bytes()
    (out / "model.onnx").write_bytes(b"of the older export")
    (out / ".gitattributes").write_text("of a clone of the hub")
    with pytest.raises(UsageError, match="holds an export already"):
        export_student(run, out, weights="ema")
    assert (out / "model.safetensors").read_bytes() == before
    export_student(run, out, weights="ema", replace=True)
    assert (out / "model.safetensors").read_bytes() != before
    assert names_in(out) == {*FILES, ".gitattributes"}


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_of_something_else_is_left_alone(run: Path, tmp_path: Path, replace: bool) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"holds checkpoints, which is not an export's"):
        export_student(run, run, replace=replace)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"holds config\.json, which is not an export's"):
        export_student(run, tmp_path, replace=replace)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_crash_anywhere_leaves_no_half_export(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step of every file of a replacement: what is there is whole, or no export, and a rerun completes it."""

    class Killed(BaseException):
        pass

    whole = {tmp_path / "last": "last", tmp_path / "ema": "ema"}
    for out, weights in whole.items():
        export_student(run, out, weights=weights)
    wanted = [(out / "model.safetensors").read_bytes() for out in whole]
    steps: list[tuple[str, Path]] = []
    monkeypatch.setattr(kdcache.durable, "on_step", lambda *step: steps.append(step))
    export_student(run, tmp_path / "last", replace=True)
    deadly = [step for step in steps if step[0] != "opened"]
    assert len(deadly) == 3 * len({"written", "fsynced", "renamed", "committed"})
    for last_step in deadly:

        def die(*step: Any, last_step: tuple[str, Path] = last_step) -> None:
            if step == last_step:
                raise Killed

        monkeypatch.setattr(kdcache.durable, "on_step", die)
        with pytest.raises(Killed):
            export_student(run, tmp_path / "last", weights="ema", replace=True)
        if (tmp_path / "last/config.json").is_file():
            timm.create_model(f"local-dir:{tmp_path / 'last'}", pretrained=True)
            assert (tmp_path / "last/model.safetensors").read_bytes() in wanted
        monkeypatch.setattr(kdcache.durable, "on_step", None)
    export_student(run, tmp_path / "last", weights="ema", replace=True)
    assert names_in(tmp_path / "last") == set(FILES)
    assert (tmp_path / "last/model.safetensors").read_bytes() == wanted[1]


def test_what_timm_loads_otherwise_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*args: Any) -> dict[str, Any]:
        config = timm_config(*args)
        config["model_args"]["num_heads"] = 4  # the same tensors, other attention
        return config

    timm_config = module.timm_config
    monkeypatch.setattr(module, "timm_config", other)
    with pytest.raises(ModelError, match="loads another student"):
        export_student(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_finished_run(tiny_root: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunMismatchError, match="not the folder of a finished run"):
        export_student(tmp_path, tmp_path / "out")
    with pytest.raises(RunMismatchError, match=r"student-ema\.safetensors: no such file"):
        export_student(tmp_path / "missing", tmp_path / "out", weights="ema")
    with pytest.raises(UsageError, match="choose from last, best, ema"):
        export_student(run, tmp_path / "out", weights="first")
    assert not (tmp_path / "out").exists()


def test_config_is_json_that_any_reader_takes(run: Path, tmp_path: Path) -> None:
    export_student(run, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text("ascii"))
    assert config["architecture"] == "vit_tiny_patch16_224"
    with safetensors.safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
