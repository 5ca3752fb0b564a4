from pathlib import Path

from kdcache.cache import Cache
from kdcache.reports.blocks import Bullets
from kdcache.reports.explained import Explainer
from kdcache.reports.inputs import CacheInput, read_inputs
from kdcache.reports.sections.explained import explained_blocks
from kdcache.reports.sections.runs import runs_section
from tests.reports.looking import blocks_of, cells, tables
from tests.reports.synthetic_runs import write_run
from tests.reports.test_explained import run_on

DASH = "\N{EN DASH}"


def test_every_term_on_tokens_has_a_row(tiny_cache: Cache, tmp_path: Path) -> None:
    runs = [
        run_on(tiny_cache, tmp_path / "lift"),
        *read_inputs(
            [write_run(tmp_path / "gram", term={"name": "gram"}), write_run(tmp_path / "l", method="logit")]
        ).runs,
    ]
    section = runs_section(runs, [CacheInput("cache", tiny_cache, [])])
    table = next(each for each in tables(section) if each.headings[0] == "run, term")
    lift, gram = cells(table)
    assert lift[:2] == ["lift, tokens", "0.125"]
    r2, unexplained, floor = float(lift[3]), float(lift[4].rstrip(" %")), float(lift[5].rstrip(" %"))
    assert abs(100 * (1 - r2) - unexplained) < 0.06
    assert 0.1 < floor < 60
    assert lift[6:] == ["6"]
    assert gram == ["gram, tokens", "0.125", *[DASH] * 5]
    (bullets,) = [block for block in blocks_of(section) if isinstance(block, Bullets)]
    assert list(bullets.items) == ["gram, tokens: no R²: gram is no mean squared error to the teacher's tokens."]


def test_no_rows_without_such_terms(tmp_path: Path) -> None:
    assert explained_blocks(read_inputs([write_run(tmp_path / "l", method="logit")]).runs, Explainer([])) == []
