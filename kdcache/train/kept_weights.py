"""Weights of a run beside its last ones: those of the best epoch, and milestones every so many epochs."""

import re
from pathlib import Path

from kdcache.errors import Remedy, RunMismatchError, UsageError
from kdcache.train.config import RunConfig
from kdcache.train.folder import AVERAGED_WEIGHTS, WEIGHTS

BEST_WEIGHTS = "student-best.safetensors"
_NAMES = {"last": WEIGHTS, "best": BEST_WEIGHTS, "ema": AVERAGED_WEIGHTS}
_CHOICE = re.compile(r"epoch-([1-9]\d*)")
_MILESTONE = re.compile(r"student-epoch-([1-9]\d*)\.safetensors")


def check_milestones(config: RunConfig) -> None:
    """Refuse milestones that a run would never reach.

    Raises: UsageError.
    """
    every = config.checkpoint.milestone_every
    if every is not None and every > config.epochs:
        raise UsageError(
            f"checkpoint.milestone_every={every} keeps nothing in a run of {config.epochs} epochs; choose at most that "
            "many, or leave it out"
        )


def kept_names(epochs: int, *, is_best: bool, every: int | None) -> list[str]:
    """File names under which the weights after so many finished epochs are kept; perhaps none.

    Args:
        epochs: Finished epochs.
        is_best: Whether the evaluation after the last of them gave the best top-1 so far.
        every: Epochs between milestones; None for none.
    """
    is_milestone = every is not None and epochs % every == 0
    return [BEST_WEIGHTS] * is_best + [milestone_name(epochs)] * is_milestone


def milestone_name(epochs: int | str) -> str:
    """File name of the weights after so many finished epochs."""
    return f"student-epoch-{epochs}.safetensors"


def milestones(run: Path) -> dict[int, Path]:
    """The milestones in a run folder by finished epochs, in that order."""
    paths = run.glob(milestone_name("*"))
    found = {int(match[1]): path for path in paths if (match := _MILESTONE.fullmatch(path.name))}
    return dict(sorted(found.items()))


def weights_name(run: Path, choice: str) -> str:
    """File name of some weights of a run, for `load_student`.

    Args:
        run: The run folder.
        choice: ``last``, ``best`` (the epoch of the best top-1), ``ema``, or ``epoch-N`` (after N finished epochs).

    Raises: UsageError for another word, RunMismatchError for weights that this run did not keep.
    """
    match = _CHOICE.fullmatch(choice)
    if match is None and choice not in _NAMES:
        raise UsageError(f"weights {choice!r}: choose from {', '.join(_NAMES)}, or epoch-N for a milestone")
    name = milestone_name(int(match[1])) if match else _NAMES[choice]
    # `load_student` says what a folder without its last weights is.
    if choice == "last" or (run / name).is_file():
        return name
    where = f"{run / name}: no such file"
    if choice == "best":
        raise RunMismatchError(
            f"{where}; a run keeps its best weights when it evaluates the student while it trains",
            remedy=Remedy.EVALUATE_WHILE_TRAINING,
        )
    if choice == "ema":
        raise RunMismatchError(
            f"{where}; averaged weights are those of a finished run with ema_decay; choose other weights of it"
        )
    held = ", ".join(f"epoch-{epochs}" for epochs in milestones(run)) or "none"
    raise RunMismatchError(f"{where}; milestones of this run: {held}", remedy=Remedy.KEEP_MILESTONES)
