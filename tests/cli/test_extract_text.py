from pathlib import Path

import pytest

from kdcache.cli.extract_text import agreement_text, caution_text, source_text, summary_text
from kdcache.images import open_source
from kdcache.teacher.agreement import Agreement
from kdcache.teacher.estimate import PassEstimate
from kdcache.teacher.extract import ExtractReport
from kdcache.teacher.pipeline import StageTimes
from tests.images.support import write_tar


@pytest.mark.parametrize(
    ("seconds", "text"), [(4, "4.0 s"), (150, "2.5 min"), (3 * 3600, "3.0 h"), (4 * 86400, "4.0 days")]
)
def test_what_a_pass_will_take_is_said(photos: Path, seconds: float, text: str) -> None:
    estimate = PassEstimate(6, 12, 2_000_000, 5_000_000_000, seconds)
    shown = source_text(open_source(str(photos)), "a.tar::b.tar", estimate)
    assert shown.startswith("a.tar and 1 more: 6 images\n")
    assert "to write: about 2 MB (12 views of 6 images), 5 GB free" in shown
    assert f"time: about {text} in the teacher at {12 / seconds:.3g} views/s" in shown


def test_what_cannot_be_told_says_why(photos: Path) -> None:
    estimate = PassEstimate(6, 12, None, 5_000_000_000, None, "no such model")
    shown = source_text(open_source(str(photos)), "d", estimate)
    assert "cannot be told before the teacher is loaded (no such model)" in shown


def test_labels_that_begin_at_1_are_noticed(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "t.tar", {"a.jpg": b"", "a.cls": b"1", "b.jpg": b"", "b.cls": b"2"})
    assert "no label is 0: if they begin at 1, count them from 0" in source_text(open_source(str(tar)), "d")
    tar = write_tar(tmp_path / "u.tar", {"a.jpg": b"", "a.cls": b"0", "b.jpg": b"", "b.cls": b"2"})
    assert "no label is 0" not in source_text(open_source(str(tar)), "d")


def test_a_finished_pass_needs_nothing(photos: Path) -> None:
    shown = source_text(open_source(str(photos)), "d", PassEstimate(0, 0, 0, 5_000_000_000, 0.0))
    assert shown.endswith("  to do: nothing, all shards are there; 5 GB free")


def test_a_worker_whose_siblings_never_came_is_told_who_it_was() -> None:
    report = ExtractReport(None, {}, 1, 0, 0, 1.0, StageTimes())
    assert "alone" not in summary_text(report, Path("c"))
    shown = summary_text(report, Path("c"), "worker 1 of 2, as srun says")
    assert shown.endswith(
        "run the same command again (this was worker 1 of 2, as srun says: alone it leaves their part)"
    )


def test_logits_that_do_not_know_the_labels_are_a_warning() -> None:
    bad, good = Agreement("g/logits", 0.001, 500, 1000, 3), Agreement("g/logits", 0.8, 500, 1000, 1000)
    assert agreement_text(bad).endswith("is the label's for 0.1% of 500 images (labels: 3 classes)")
    assert agreement_text(good) == "  g/logits: the largest of 1000 logits is the label's for 80.0% of 500 images"
    assert "--class-order or --class-map" in caution_text([bad], is_random=False)
    assert (
        caution_text([good], is_random=False)
        == caution_text([bad], is_random=True)
        == caution_text([], is_random=False)
        == ""
    )
