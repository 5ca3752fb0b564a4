"""What a run knows of the weights that are exported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from kdcache.train.folder import read_summary
from kdcache.train.metrics import read_metrics

_MEANING = {
    "last": "after the last epoch",
    "best": "of the epoch with the best top-1, chosen on the images below",
    "ema": "moving average over the whole run",
}


@final
@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run knows of one of its weights.

    Args:
        weights: Which: last, best, ema or epoch-N.
        meaning: In words.
        epoch: Number of the epoch after which they were taken, from 1; None where unknown.
        accuracy: top1, top5, num_images and num_bad of that epoch; None where these weights were not evaluated.
    """

    weights: str
    meaning: str
    epoch: int | None
    accuracy: dict[str, Any] | None


def measured(run: Path, weights: str) -> Measured:
    """What the run's metrics say of these weights; a student of one's own loop has none.

    Args:
        run: The run folder.
        weights: As `weights_name` takes them.
    """
    evaluated = {entry["epoch"] + 1: entry for entry in read_metrics(run, "eval")}
    summary = read_summary(run)
    if weights.startswith("epoch-"):
        epoch: int | None = int(weights.removeprefix("epoch-"))
    elif weights == "best":
        # The first of equals, as the run chooses.
        epoch = max(evaluated, key=lambda each: evaluated[each]["top1"], default=None)
    else:
        epoch = None if summary is None else summary["epochs"]
    accuracy = None if weights == "ema" or epoch is None else evaluated.get(epoch)
    meaning = _MEANING.get(weights, "a milestone of the run")
    return Measured(weights=weights, meaning=meaning, epoch=epoch, accuracy=accuracy)
