from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdcache.errors import ModelError, TapError, UsageError
from kdcache.planning.pictures import IMAGE_BYTES
from kdcache.planning.plan import make_plan
from kdcache.strict_json import dump_json, load_json
from tests.planning.support import tiny_plan


def test_a_plan_of_data(tmp_path: Path) -> None:
    notes: list[str] = []
    plan = make_plan(tiny_plan(tmp_path, epochs=5), on_note=notes.append)
    figures = plan.figures
    assert (figures.num_images, figures.num_views, figures.epochs) == (20, 2, 5)
    assert set(plan.sizes.columns) == {
        "vit-tiny-patch16-224/blocks-1-patch-fp16", "vit-tiny-patch16-224/head-logits-fp16",
    }  # fmt: skip
    assert plan.sizes.images == 20 * 75
    assert plan.fits_memory
    # The disk may be slower than the pass; both are reciprocals that were rounded once.
    assert figures.pass_s >= (1 - 1e-12) / plan.views_per_s
    assert plan.verdict.text.startswith(("cache", "do not cache"))
    assert plan.memory_saved_bytes is None
    assert [note.split()[0] for note in notes][-3:] == ["steps", "the", "disk"]
    assert [form.name for form in plan.pixel_forms] == ["replay", "jpeg", "raw"]
    assert list(tmp_path.iterdir()) == []
    facts = load_json(dump_json(plan.facts()), where="facts")
    assert facts["size_bytes"] == plan.sizes.total
    assert facts["figures"]["num_images"] == 20


def test_published_sizes_need_no_data(tmp_path: Path) -> None:
    """A record of fp16 logits takes 20 bytes and two headers, whatever the number of images."""
    config = tiny_plan(tmp_path, has_data=False, num_images=1_281_167, taps=("head/logits",), limit=None)
    plan = make_plan(replace(config, extract=replace(config.extract, data="nowhere", shard_samples=512)))
    assert plan.sizes.images == 1_281_167 * IMAGE_BYTES
    (size,) = plan.sizes.columns.values()
    assert size == pytest.approx(2 * 1_281_167 * 1024, rel=0.01)


def test_a_sample_speaks_for_more_images(tmp_path: Path) -> None:
    plan = make_plan(tiny_plan(tmp_path, num_images=10**6))
    assert plan.figures.num_images == 10**6
    assert plan.sizes.images == 75 * 10**6


def test_what_does_not_fit_into_memory_is_read_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.planning.plan.usable_memory", lambda: 0)
    plan = make_plan(tiny_plan(tmp_path))
    record = sum(plan.sizes.columns.values()) / 40 + 75
    assert not plan.fits_memory
    assert plan.figures.cached_read_s >= record / plan.disk.read_bytes_per_s * 0.999


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"teacher": "no_such_model"}, ModelError, "no_such_model"),
        ({"taps": ("blocks.99/patch",)}, TapError, "99"),
        ({"taps": ("blocks.-1/patch:none",)}, UsageError, "none"),
        ({"disk": Path("/no/such/folder")}, UsageError, "is not a folder"),
    ],
    ids=["teacher", "tap", "codec", "disk"],
)
def test_what_cannot_be_planned_is_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    config = tiny_plan(tmp_path, **{name: each for name, each in changes.items() if name != "disk"})
    with pytest.raises(error, match=text):
        make_plan(replace(config, disk=changes.get("disk", config.disk)))
    assert list(tmp_path.iterdir()) == []


def test_a_student_is_looked_up_before_anything_runs(tmp_path: Path) -> None:
    config, notes = tiny_plan(tmp_path), list[str]()
    with pytest.raises(ModelError, match="no_such_model"):
        make_plan(replace(config, student=replace(config.student, name="no_such_model")), on_note=notes.append)
    assert notes == []


@pytest.mark.parametrize(
    "changes", [{"num_images": 0}, {"epochs": 0}, {"image_bytes": 0}, {"seconds": 0.0}, {"has_data": False}], ids=str
)
def test_settings_check_themselves(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be (at least 1|above 0)|needs data"):
        tiny_plan(tmp_path, **changes)


@pytest.mark.parametrize("changes", [{"codec": "auto"}, {"taps": ("head/logits", "blocks.-1/patch:auto")}], ids=str)
def test_a_codec_that_only_a_trained_teacher_can_choose_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = tiny_plan(tmp_path)
    with pytest.raises(ValueError, match=r"codec auto is chosen by what a trained teacher gives.*example int8"):
        replace(config, extract=replace(config.extract, **changes))
