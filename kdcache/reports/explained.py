"""How much of the teacher's tokens a student has learned, and how much a fixed map from its width could.

R² is 1 - MSE / variance. The mean squared error is the term's as logged, the variance that of the same targets over
the whole cache, from the statistics in the group's indexes. What no affine map of rank C_s can explain is the part of
the centred covariance beyond its C_s largest eigenvalues.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.analysis.subspace import standardized
from kdcache.cache.cache import Cache
from kdcache.cache.cache_statistics import CacheStatistics
from kdcache.cache.record import Array
from kdcache.cache.statistics import TokenStatistics
from kdcache.errors import KdcacheError
from kdcache.models.taps import parse_tap
from kdcache.reports.inputs import CacheInput, RunInput
from kdcache.reports.run_terms import RunTerm, method_of
from kdcache.reports.student_width import block_widths


@dataclass(frozen=True)
class Explained:
    """One term of one run.

    Args:
        term: The term.
        width: C_s, channels of the student where the term reads it, before a change of its width; None if not known.
        variance: Of the targets, mean over channels; None where there is no R².
        r2: 1 - MSE / variance.
        floor: Fraction of the variance that no affine map from `width` channels explains; None if not known.
        remark: Why something is None, or how to read the rest.
    """

    term: RunTerm
    width: int | None = None
    variance: float | None = None
    r2: float | None = None
    floor: float | None = None
    remark: str = ""


class Explainer:
    """Looks runs' columns up in the caches that are at hand; statistics are read once a column.

    Args:
        caches: The caches.
    """

    def __init__(self, caches: Sequence[CacheInput]) -> None:
        self._caches = [each.cache for each in caches]
        self._statistics: dict[str, CacheStatistics] = {}

    def cache_of(self, run: RunInput) -> Cache | None:
        """The cache a run was trained from; None where it is not at hand."""
        names = [name for term in (run.summary or {}).get("terms", []) for name in term.get("columns", [])]
        return next((cache for cache in self._caches if _is_of(run, names, cache)), None)

    def explain(self, run: RunInput, term: RunTerm) -> Explained:
        """R² and its floor, or why there is none."""
        if reason := _no_r2(term):
            return Explained(term, remark=reason)
        cache = self.cache_of(run)
        if cache is None:
            return Explained(term, remark="no R²: its cache is not on this page: add the cache's folder")
        assert term.loss is not None, "refused above"
        known = self._statistics.setdefault(cache.digest, CacheStatistics(cache))
        statistics = known.of(cache.column(term.columns[0]))
        transform = term.settings.get("transform", "none")
        covariance = _covariance(statistics, transform)
        variance = float(np.diag(covariance).mean())
        if variance <= 0:
            return Explained(term, remark="no R²: its targets do not vary")
        width = _width(run, term)
        floor, remark = None, "" if width is not None else "the student's width is not known"
        if not statistics.with_moments:
            remark = "no floor: the cache was extracted with light statistics"
        elif width is not None:
            floor = unexplained_beyond(covariance, width)
        change = method_of(run).get("change")
        if isinstance(change, dict) and change.get("name") == "widelast":
            remark = remark or "its last block depends on the input, so the floor does not bind it"
        return Explained(term, width, variance, 1 - term.loss / variance, floor, remark)


def unexplained_beyond(covariance: Array, width: int) -> float:
    """Fraction of the variance outside the `width` strongest directions, 0 to 1.

    Args:
        covariance: (C, C).
        width: Of the best affine map.
    """
    values = np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0)
    return float(values[width:].sum() / values.sum())


def _covariance(statistics: TokenStatistics, transform: str) -> Array:
    """(C, C) of the targets as the term compares them; its diagonal alone without second moments."""
    variance = statistics.variance
    covariance = np.diag(variance)
    if statistics.with_moments:
        covariance = statistics.covariance
        np.fill_diagonal(covariance, variance)
    if transform == "standardize":
        return standardized(covariance, variance)
    # A rotation and one scale for all, which changes no fraction: the scale makes the mean variance 1.
    return covariance / variance.mean() if transform == "phi-s" and variance.mean() > 0 else covariance


def _no_r2(term: RunTerm) -> str:
    settings: Mapping[str, object] = term.settings
    if term.name != "tokens":
        return f"no R²: {term.name} is no mean squared error to the teacher's tokens"
    if (loss := settings.get("loss")) != "mse":
        return f"no R²: its loss is {loss}, which is no mean squared error"
    if (adapter := settings.get("adapter")) not in ("linear", "none"):
        return f"no R²: adapter={adapter} compares other values than the teacher's tokens"
    if settings.get("resize") == "teacher":
        return "no R²: its targets are resized, and their variance is not known"
    if settings.get("transform") == "layer-norm":
        return "no R²: its targets are normalised token by token, and their variance is not known"
    if len(term.columns) != 1:
        return f"no R²: its value is a mean over {len(term.columns)} columns"
    return "" if term.loss is not None else "no R²: its last epoch logged no step"


def _is_of(run: RunInput, names: Sequence[str], cache: Cache) -> bool:
    try:
        columns = [cache.column(name) for name in names]
    except KdcacheError:
        return False
    pixels = [cache.pixel_column] if cache.pixel_column is not None else []
    return bool(names) and run.record.get("cache") in (cache.identity(columns), cache.identity([*columns, *pixels]))


def _width(run: RunInput, term: RunTerm) -> int | None:
    widths = block_widths(run)
    if widths is None or len(term.student_taps) != 1:
        return None
    block = parse_tap(term.student_taps[0]).block
    return widths[-1 if block is None else block]
