"""The part of `kdcache analyze` that runs a model: from timm, or the student of a run with its checkpoints."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import timm.data
import torch
from torch import nn

from kdcache.analysis.branches import measure_branches
from kdcache.analysis.model_tokens import ModelTokens
from kdcache.analysis.result import BranchSpectrum, Checkpoint, SourceFacts
from kdcache.analysis.run import measure_checkpoint
from kdcache.analysis.tokens import TokenSource
from kdcache.cli.progress import ProgressReporter
from kdcache.config import parse_pairs
from kdcache.errors import UsageError
from kdcache.images import open_source
from kdcache.models import Tap, create_timm_model, load_weights, parse_tap, resolve_name
from kdcache.models.build import size_arguments
from kdcache.models.names import with_square_size
from kdcache.models.taps import num_blocks
from kdcache.seeds import derived_seed
from kdcache.students.change import TokenHead, trunk_of
from kdcache.students.student import Student
from kdcache.train.checkpoint import checkpoint_paths, checkpoint_step
from kdcache.train.eval_images import eval_batches
from kdcache.train.folder import load_checkpoint, load_saved, load_student, read_summary
from kdcache.train.kept_weights import BEST_WEIGHTS, milestones
from kdcache.views import EvalView

# A set of weights: its name, and how to put it into the model.
_Weights = tuple[str, Callable[[], object]]


@dataclass(frozen=True)
class _Network:
    """A model, how it sees images, its timm name, its sets of weights (the last one counts)."""

    model: nn.Module
    view: EvalView
    name: str
    weights: list[_Weights]


def model_source(
    arguments: argparse.Namespace, device: torch.device, num_images: int, reporter: ProgressReporter
) -> tuple[TokenSource, list[Checkpoint], list[BranchSpectrum]]:
    """The tokens of a model with its last weights, the dynamics of all earlier ones, and its branches' spectra.

    Args:
        arguments: Of the command.
        device: Where the model runs.
        num_images: How many images it sees.
        reporter: Told about checkpoints.

    Returns: the tokens, the checkpoints, and the branches of a model that has multi-depth blocks.
    """
    network = _of_run(arguments.run) if arguments.run else _of_timm(arguments)
    model = network.model.to(device).eval().requires_grad_(False)
    source = open_source(arguments.data)
    taps = [parse_tap(text) for text in arguments.tap or []] or _all_taps(model)
    *earlier, (last, load_last) = network.weights
    facts = SourceFacts(
        kind="model",
        path=str(arguments.run or network.name),
        digest="",
        teacher=network.name,
        weights=last,
        data=arguments.data,
        num_images=0,
        num_views=1,
        num_read=0,
        num_blocks=0,
        view_recipe="",
        view={},
    )
    tokens = ModelTokens(
        model,
        taps,
        view=network.view,
        source=source,
        read_images=partial(eval_batches, source, network.view),
        num_images=num_images,
        batch_size=arguments.batch_size,
        facts=facts,
    )
    checkpoints: list[Checkpoint] = []
    for label, load in earlier:
        load()
        reporter.note(f"analyze: dynamics of {label}")
        checkpoints.append(measure_checkpoint(tokens, label))
    load_last()
    return tokens, checkpoints, measure_branches(model, tokens)


def _of_timm(arguments: argparse.Namespace) -> _Network:
    if not arguments.weights:
        raise UsageError("--model needs --weights: hub, random or files")
    named = resolve_name(arguments.model)
    given = parse_pairs(arguments.model_kwargs, "--model-kwargs")
    name, kwargs = named.model.name, with_square_size({**named.model.kwargs, **given}, where=arguments.model)
    if arguments.image_size is not None and "img_size" in given:
        raise UsageError("--image-size and --model-kwargs img_size set the same size: give one")
    size = arguments.image_size or kwargs.get("img_size")
    torch.manual_seed(derived_seed("teacher", 0))
    options = {**kwargs, **(size_arguments(name, size) if size else {})}
    trained = [str(named.weights)] if named.weights is not None else ["hub"]
    chosen = [each for text in arguments.weights for each in (trained if text == "hub" else [text])]
    model = create_timm_model(name, pretrained="hub" in chosen, kwargs=options, settings=named.model.settings)
    files = [text for text in chosen if text not in ("hub", "random")]
    if len(files) < len(chosen) > 1:
        raise UsageError("--weights: several sets of weights must all be files")
    config = timm.data.resolve_model_data_config(model)
    view = EvalView(
        size=int(size or config["input_size"][-1]),
        crop_pct=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    weights: list[_Weights] = [(path, partial(load_weights, model, path)) for path in files]
    return _Network(model, view, name, weights or [(chosen[0], lambda: None)])


def _of_run(folder: Path) -> _Network:
    student, spec, view, _ = load_student(folder)
    final = {key: value.clone() for key, value in student.state_dict().items()}
    weights = [*_kept(folder, student), ("final", partial(student.load_state_dict, final))]
    return _Network(student.model, view, spec.name, weights)


def _kept(folder: Path, student: Student) -> list[_Weights]:
    """Checkpoints, milestones and best weights of a run in the order of training, each step once."""
    by_step: dict[int, _Weights] = {
        checkpoint_step(path): (path.stem, partial(load_checkpoint, student, path)) for path in checkpoint_paths(folder)
    }
    summary = read_summary(folder) or {"steps": 0, "epochs": 1}
    steps = summary["steps"] // summary["epochs"]
    for epochs, path in milestones(folder).items():
        by_step[steps * epochs] = f"epoch-{epochs}", partial(load_saved, student, path)
    if (best := folder / BEST_WEIGHTS).is_file() and "best_epoch" in summary:
        epochs = summary["best_epoch"]
        by_step[steps * epochs] = f"best (epoch-{epochs})", partial(load_saved, student, best)
    return [weights for _, weights in sorted(by_step.items())]


def _all_taps(model: nn.Module) -> list[Tap]:
    """Every block; last the tokens that a lifted student was distilled through."""
    blocks = [Tap("patch", at) for at in range(num_blocks(trunk_of(model)))]
    return [*blocks, Tap("change")] if isinstance(model, TokenHead) else blocks
