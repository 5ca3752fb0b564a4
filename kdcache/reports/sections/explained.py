"""R² of the distilled tokens beside what the student's width allows."""

from collections.abc import Sequence

from kdcache.reports.blocks import Block, Bullets, Heading, Row, Table
from kdcache.reports.explained import Explained, Explainer
from kdcache.reports.inputs import RunInput
from kdcache.reports.run_terms import feature_terms
from kdcache.reports.words import NOTHING, number_text, share_text

_HEADINGS = ("run, term", "MSE", "variance", "R²", "unexplained", "floor", "student's channels")


def explained_blocks(runs: Sequence[RunInput], explainer: Explainer) -> list[Block]:
    """A table of every term on tokens; empty where no finished run has one."""
    found = [(run, explainer.explain(run, term)) for run in runs for term in feature_terms(run)]
    if not found:
        return []
    rows = [_row(run, each) for run, each in found]
    remarks = [f"{_name(run, each)}: {each.remark}." for run, each in found if each.remark]
    table: list[Block] = [Heading("Distilled tokens"), Table(_HEADINGS, rows, _MEANING)]
    return [*table, Bullets(remarks)] if remarks else table


_MEANING = (
    "R² = 1 - MSE / variance of the teacher's tokens around their mean: 0 for a student that gives the mean token "
    "everywhere, 1 for one that gives the teacher's. The MSE is the mean over the last epoch's logged steps, on the "
    "training views and before the last weights were reached; the variance is over all views of the cache. Unexplained "
    "is 1 - R². The floor is the fraction that no fixed affine map from the student's channels can explain, whatever "
    "the student learns: the part of the centred covariance beyond that many dimensions. It binds a linear adapter and "
    "Lift. The channels are those of the student before a change of its width."
)


def _row(run: RunInput, each: Explained) -> Row:
    return Row(
        (
            _name(run, each),
            number_text(each.term.loss),
            number_text(each.variance),
            NOTHING if each.r2 is None else f"{each.r2:.4f}",
            share_text(None if each.r2 is None else 1 - each.r2),
            share_text(each.floor),
            NOTHING if each.width is None else str(each.width),
        )
    )


def _name(run: RunInput, each: Explained) -> str:
    return f"{run.label}, {each.term.label}"
