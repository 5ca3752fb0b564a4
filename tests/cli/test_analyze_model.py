from pathlib import Path

import pytest

from kdcache.analysis.folder import read_analysis
from kdcache.cli.main import main
from tests.cli.support import fails
from tests.conftest import STUDENT_KWARGS, TEACHER, TEACHER_KWARGS

KWARGS = [f"{name}={value}" for name, value in {**TEACHER_KWARGS, "depth": 4}.items()]


def test_a_model_and_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", "--model", TEACHER, "--weights", "random", "--model-kwargs", *KWARGS, "--data", "digits:test"]
    assert main([*words, "--images", "12", "--out", str(tmp_path)]) == 0
    assert "blocks.3/patch" in capsys.readouterr().out
    analysis, curves = read_analysis(tmp_path)
    assert [layer.block for layer in analysis.layers] == [0, 1, 2, 3]
    assert (analysis.source.kind, analysis.source.num_read, analysis.source.num_images) == ("model", 12, 360)
    assert set(analysis.depth) == {"entropy", "magnitude", "intensity"}
    assert analysis.layer_pairs is not None
    assert analysis.settings["view"]["size"] == 16
    assert (analysis.source.view_recipe, analysis.source.view["size"], analysis.source.num_blocks) == ("eval", 16, 4)
    assert analysis.settings["model_kwargs"] == KWARGS
    assert "layers/3/spatial/frequency" in curves
    assert main([*words, "--images", "6", "--tap", "blocks.-1/patch", "--out", str(tmp_path)]) == 0
    assert [layer.block for layer in read_analysis(tmp_path)[0].layers] == [3]


@pytest.fixture(scope="module")
def run(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "lift"
    kwargs = [f"{name}={value}" for name, value in STUDENT_KWARGS.items()]
    words = [
        "train",
        "--cache",
        str(tiny_root),
        "--out",
        str(folder),
        "--student",
        TEACHER,
        "--student-kwargs",
        *kwargs,
    ]
    words += [
        "--method",
        "lift:teacher=blocks.1/patch",
        "--epochs",
        "3",
        "--batch-size",
        "8",
        "--set",
        "checkpoint.keep=3",
        "--set",
        "checkpoint.milestone_every=2",
    ]
    assert main([*words, "--set", "data.codec=fp16"]) == 0
    return folder


@pytest.mark.slow
def test_the_student_of_a_run_and_its_checkpoints(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["analyze", "--run", str(run), "--data", "digits:test", "--images", "8", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "change/tokens" in capsys.readouterr().out
    analysis, curves = read_analysis(tmp_path)
    assert [(layer.name, layer.num_channels) for layer in analysis.layers] == [
        ("blocks.0/patch", 12),
        ("blocks.1/patch", 12),
        ("change/tokens", 24),
    ]
    assert analysis.left_out == []
    assert curves["layers/2/ranks/all_tokens_centred"][11] == pytest.approx(1, abs=1e-4)
    names = [checkpoint.weights for checkpoint in analysis.checkpoints]
    assert names == ["step-000000002", "epoch-2", "step-000000006", "final"], "each step once, milestones first"
    first, last = analysis.checkpoints[0], analysis.checkpoints[-1]
    assert first.entropy_bits != last.entropy_bits
    assert analysis.checkpoints[-2].magnitude == last.magnitude, "the last checkpoint is the finished student"
    one_tap = [*words[:-1], str(tmp_path / "lifted"), "--tap", "change/tokens"]
    assert main(one_tap) == 0
    (lifted,) = read_analysis(tmp_path / "lifted")[0].layers
    assert lifted.ranks == analysis.layers[2].ranks
    capsys.readouterr()
    damaged = min(run.glob("checkpoints/*.pt"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"x")
    assert "damaged (its sha256" in fails(capsys, words)
    damaged.write_bytes(whole)


@pytest.mark.parametrize(
    ("more", "message", "code"),
    [
        ([], "--model needs --weights", 2),
        (["--weights", "random", "a.safetensors"], "several sets of weights must all be files", 2),
        (["--weights", "none.safetensors"], "none.safetensors", 1),
        (["--weights", "random", "--image-size", "16"], "set the same size: give one", 2),
        (["--weights", "random", "--tap", "head/logits"], "an analysis is of patch tokens", 1),
        (["--weights", "random", "--tap", "change/tokens"], "only a student trained with lift does", 1),
    ],
)
def test_wrong_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str, code: int
) -> None:
    words = ["analyze", "--model", TEACHER, "--model-kwargs", *KWARGS, "--data", "digits:test", "--out", str(tmp_path)]
    assert message in fails(capsys, [*words, *more], code=code)


def test_several_weights_are_compared(tmp_path: Path) -> None:
    import safetensors.torch

    from kdcache.config import parse_pairs
    from kdcache.models import create_timm_model

    files: list[str] = []
    for number in range(2):
        model = create_timm_model(TEACHER, kwargs=parse_pairs(KWARGS, "--model-kwargs"))
        files.append(str(tmp_path / f"{number}.safetensors"))
        safetensors.torch.save_file(model.state_dict(), files[-1])
    words = ["analyze", "--model", TEACHER, "--weights", *files, "--data", "digits:test", "--images", "6"]
    assert main([*words, "--model-kwargs", *KWARGS, "--out", str(tmp_path)]) == 0
    analysis, _ = read_analysis(tmp_path)
    assert [each.weights for each in analysis.checkpoints] == files
    one, other = analysis.checkpoints
    assert one.entropy_bits != other.entropy_bits
    assert other.entropy_bits == analysis.depth["entropy"].values
    assert analysis.source.weights == files[1]
