"""Which weights of a run can be exported, and what the run knows of their accuracy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final, get_args

from kdcache.errors import Remedy, RunMismatchError
from kdcache.train.folder import AVERAGED_WEIGHTS, WEIGHTS, read_summary
from kdcache.train.metrics import read_metrics

Weights = Literal["last", "ema"]
_FILES = {"last": WEIGHTS, "ema": AVERAGED_WEIGHTS}
_MEANING = {
    "last": "after the last epoch",
    "ema": "exponential moving average of the run's weights",
}


@final
@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run knows of one of its weights.

    Args:
        weights: Which.
        meaning: In words.
        epoch: Number of the epoch after which they were taken, from 1; None where unknown.
        accuracy: top1, top5, num_images and num_bad of that epoch; None where these weights were not evaluated.
    """

    weights: Weights
    meaning: str
    epoch: int | None
    accuracy: dict[str, Any] | None


def weights_file(run: Path, weights: Weights) -> str:
    """The name of the file.

    Raises: ValueError for unknown words; RunMismatchError for weights that this run did not keep.
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights must be one of {', '.join(get_args(Weights))}, got {weights!r}")
    name = _FILES[weights]
    # Without the last ones the run is not finished, which is the better message.
    if weights != "last" and (run / WEIGHTS).is_file() and not (run / name).is_file():
        held = ", ".join(word for word, file in _FILES.items() if (run / file).is_file())
        raise RunMismatchError(
            f"{run}: holds no {name}; its weights are: {held}", remedy=Remedy.KEEP_WEIGHTS, held=held, wanted=weights
        )
    return name


def measured(run: Path, weights: Weights) -> Measured:
    """What the run's metrics say of these weights; a student of one's own loop has none."""
    summary = read_summary(run)
    epoch: int | None = None if summary is None else summary["epochs"]
    accuracy: dict[str, Any] | None = None
    if weights == "last" and epoch is not None:
        found = [entry for entry in read_metrics(run, "eval") if entry["epoch"] + 1 == epoch]
        accuracy = found[-1] if found else None
    return Measured(weights=weights, meaning=_MEANING[weights], epoch=epoch, accuracy=accuracy)
