"""Every example runs, trains as a plain loop does, and leaves a student that can be evaluated and exported."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import kdcache
from kdcache.cli.main import main as command
from kdcache.export import export_student
from kdcache.methods.feature import feature
from kdcache.train.folder import load_student
from kdcache.train.origin import read_origin
from tests.train.support import tiny_run

ROOT = Path(__file__).parents[2] / "examples"
NAMES = ("torch_loop", "accelerate_loop", "lightning_loop", "timm_loop")
MAX_LINES = 62
CONFIG = tiny_run("data.codec=fp16", method=feature(teacher=("blocks.1/patch:fp16",)))
LIGHTNING: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
# Lightning and Accelerate tell what would be faster, on stderr and as warnings of their own.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def example(name: str) -> ModuleType:
    """An example as a module; skips where the library that it shows is not installed."""
    library = {"accelerate_loop": "accelerate", "lightning_loop": "lightning", "timm_loop": "timm.task"}.get(name)
    if library is not None:
        pytest.importorskip(library, reason=f"{library} is not installed; the extra test has it")
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, cache: Path, out: Path, config: kdcache.RunConfig = CONFIG) -> dict[str, Tensor]:
    """Run an example on the CPU; returns the student's weights."""
    more: dict[str, Any] = {}
    if name == "lightning_loop":
        more = LIGHTNING
    example(name).main(str(cache), str(out), config, **more)
    return safetensors.torch.load_file(out / "student.safetensors")


@pytest.fixture(scope="module")
def plain(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the loop in plain torch leaves."""
    out = tmp_path_factory.mktemp("examples") / "torch"
    run("torch_loop", tiny_root, out)
    return out


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_they_are_all_here_and_short() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == set(NAMES)
    lengths = {name: len((ROOT / f"{name}.py").read_text().splitlines()) for name in NAMES}
    assert max(lengths.values()) <= MAX_LINES, lengths
    listed = (ROOT / "README.md").read_text()
    assert all(f"- `{name}.py`: " in listed for name in NAMES)


def test_the_plain_loop_trains(
    tiny_root: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("torch_loop", tiny_root, tmp_path / "longer", tiny_run("epochs=12", method=CONFIG.method))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines]
    assert len(losses) == 12
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("name", ["accelerate_loop", "lightning_loop"])
@pytest.mark.slow
def test_other_loops_train_as_the_plain_one(tiny_root: Path, plain: Path, tmp_path: Path, name: str) -> None:
    found = run(name, tiny_root, tmp_path / "run")
    torch.testing.assert_close(found, safetensors.torch.load_file(plain / "student.safetensors"))


def test_accelerate_resumes_after_an_epoch(tiny_root: Path, plain: Path, tmp_path: Path) -> None:
    run("accelerate_loop", tiny_root, tmp_path / "run", tiny_run("epochs=1", method=CONFIG.method))
    found = run("accelerate_loop", tiny_root, tmp_path / "run")
    torch.testing.assert_close(found, safetensors.torch.load_file(plain / "student.safetensors"))


def test_lightning_resumes_within_an_epoch(tiny_root: Path, plain: Path, tmp_path: Path) -> None:
    """The loader's state is part of Lightning's checkpoints; three steps are within the first epoch of five."""
    module, cache = example("lightning_loop"), kdcache.open_cache(tiny_root)
    every = module.lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=3, filename="{step}")
    settings = {**LIGHTNING, "default_root_dir": tmp_path, "max_epochs": CONFIG.epochs}
    module.lightning.Trainer(max_steps=4, callbacks=[every], **settings).fit(module.Distillation(cache, CONFIG))
    resumed = module.Distillation(cache, CONFIG)
    # Lightning's own plain values, which torch does not know as safe.
    module.lightning.Trainer(**settings).fit(resumed, ckpt_path=tmp_path / "step=3.ckpt", weights_only=False)
    found = resumed.step.student.model.state_dict()
    torch.testing.assert_close(found, safetensors.torch.load_file(plain / "student.safetensors"))


def test_timms_checkpoints_are_timms(tiny_root: Path, tmp_path: Path) -> None:
    found = run("timm_loop", tiny_root, tmp_path / "run")
    saved = torch.load(tmp_path / "run/timm/last.pth.tar", weights_only=True)
    assert saved["epoch"] == 1
    torch.testing.assert_close(saved["state_dict"], found, rtol=0, atol=0)
    assert set(saved["state_dict_ema"]) == set(found)
    assert saved["task_state"]["adapters"]


def test_what_they_leave_is_evaluated_and_exported(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_origin(plain).method == "feature"
    assert command(["eval", str(plain), "--data", "digits:test"]) == 0
    assert "of 360 images" in capsys.readouterr().out
    done = export_student(plain, tmp_path / "out")
    assert done.num_parameters == sum(each.numel() for each in load_student(plain)[0].parameters())
