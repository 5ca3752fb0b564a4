"""From figures to a verdict: when a cache has paid for its pass, and the number that decides where it never does."""

import math
from dataclasses import dataclass

_HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a plan knows, all per view on this machine.

    Args:
        num_images: Images of the cache; an epoch takes one view of each.
        num_views: K, views of each that the pass makes.
        size_bytes: Bytes of the finished cache.
        free_bytes: Free where it would lie.
        pass_s: Seconds of the teacher pass, a view.
        step_s: Seconds of the student's optimizer step, a view.
        teacher_s: Seconds of the teacher's forward inside the loop, a view.
        cached_read_s: Seconds to read a view's targets and pixels from the cache.
        online_read_s: Seconds to read a view's pixels without a cache.
        epochs: Planned, over all students together; None where nobody said.
    """

    num_images: int
    num_views: int
    size_bytes: int
    free_bytes: int
    pass_s: float
    step_s: float
    teacher_s: float
    cached_read_s: float
    online_read_s: float
    epochs: float | None = None

    @property
    def pass_total_s(self) -> float:
        """Seconds of the whole pass."""
        return self.num_images * self.num_views * self.pass_s

    @property
    def cached_epoch_s(self) -> float:
        """Seconds of an epoch from the cache: reading runs beside the step, so the slower one counts."""
        return self.num_images * max(self.step_s, self.cached_read_s)

    @property
    def online_epoch_s(self) -> float:
        """Seconds of an epoch with the teacher in the loop, whose forward comes before the student's step."""
        return self.num_images * max(self.step_s + self.teacher_s, self.online_read_s)

    @property
    def break_even_epochs(self) -> float:
        """Epochs after which pass and cached epochs took less time than epochs with the teacher; infinity for never."""
        gain = self.online_epoch_s - self.cached_epoch_s
        return self.pass_total_s / gain if gain > 0 else math.inf


@dataclass(frozen=True)
class Verdict:
    """What to do.

    Args:
        caches: Whether to make the cache.
        text: One line that begins with ``cache`` or ``do not cache``, with the number that decides.
    """

    caches: bool
    text: str


def decide(figures: Figures) -> Verdict:
    """Decide from figures."""
    if figures.size_bytes > figures.free_bytes:
        return _no(f"it takes {_gb(figures.size_bytes)}, and {_gb(figures.free_bytes)} are free")
    if math.isinf(figures.break_even_epochs):
        return _no(_why_never(figures))
    epochs, even = figures.epochs, figures.break_even_epochs
    if epochs is None:
        return Verdict(True, f"cache, if students train for more than {even:.3g} epochs in all (none were named)")
    if even > epochs:
        return _no(f"it pays after {even:.3g} epochs, and {epochs:g} are planned")
    without = epochs * figures.online_epoch_s
    saved = without - figures.pass_total_s - epochs * figures.cached_epoch_s
    return Verdict(
        True,
        f"cache: it pays after {even:.3g} of {epochs:g} epochs and saves {duration_text(saved)} of "
        f"{duration_text(without)}",
    )


def duration_text(seconds: float) -> str:
    """``2.3 h``: seconds, minutes, hours or days with three significant digits."""
    for unit, size in (("days", 24 * _HOUR_S), ("h", _HOUR_S), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _why_never(figures: Figures) -> str:
    images = figures.num_images
    cached, online = (1e3 * seconds / images for seconds in (figures.cached_epoch_s, figures.online_epoch_s))
    read = 1e3 * figures.cached_read_s
    if figures.cached_read_s > figures.step_s:
        return f"reading the cache takes {read:.3g} ms a view, a step with the teacher in the loop {online:.3g} ms"
    return f"a step takes {cached:.3g} ms a view from the cache and {online:.3g} ms with the teacher in the loop"


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.3g} GB"


def _no(reason: str) -> Verdict:
    return Verdict(False, f"do not cache: {reason}")
