"""The card tells what the run recorded; what it did not is unknown, and nothing is invented."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm

from kdcache.cache import open_cache
from kdcache.export import export_student
from kdcache.export.card import _code, _images, _teachers, teacher_licence
from kdcache.methods.feature import feature
from kdcache.methods.none import none
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.train.folder import read_summary
from kdcache.train.origin import Origin, TeacherOrigin, read_origin
from tests.conftest import GROUP
from tests.export.support import WITHOUT_KDCACHE, finished, in_a_fresh_process

TEACHER = TeacherOrigin(name="x", weights="hub", weights_sha256="0", precision="fp32")
ORIGIN = Origin(
    method="none",
    change={"name": "none"},
    terms=[],
    teachers={},
    online=False,
    cache="0",
    source_kind="tar",
    subset=None,
    num_images=1,
    num_bad_images=0,
    num_classes=1,
    views={},
    versions={},
)


@pytest.fixture(scope="module")
def run(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "run"
    return finished(tiny_root, folder, "eval.data=digits:test", "seed=4", method=feature(teacher=("blocks.1/patch",)))


def card_of(run: Path, out: Path) -> str:
    export_student(run, out)
    return (out / "README.md").read_text()


def row(card: str, first: str) -> list[str]:
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_it_tells_where_the_student_comes_from(run: Path, tmp_path: Path) -> None:
    card, origin, summary = card_of(run, tmp_path / "out"), read_origin(run), read_summary(run)
    assert summary is not None
    assert "# vit_tiny_patch16_224, trained with the method feature" in card
    assert row(card, f"{summary['top1']:.2f} %")[2:] == ["360", "`digits:test`"]
    assert "after the last epoch (epoch 1 of 1), seed 4." in card
    teacher = origin.teachers[GROUP]
    assert f"| random, not trained | `{teacher.weights_sha256}` | none, not trained |" in card
    for term in origin.terms:
        assert row(card, f"`{term['label']}`")[1] == f"{term['weight']:g}"
    assert row(card, "`tokens`")[2] == f"`{GROUP}/blocks-1-patch-fp16`"
    assert row(card, "images")[1] == "20"
    assert row(card, "views of each image")[1].startswith("2, recipe `rrc-flip`")
    assert f"torch {origin.versions['torch']}" in card


def test_the_best_epoch_was_chosen_on_those_images(run: Path, tmp_path: Path) -> None:
    export_student(run, tmp_path / "out", weights="best")
    card = (tmp_path / "out/README.md").read_text()
    assert "of the epoch with the best top-1, chosen on the images below (epoch 1 of 1), seed 4." in card


@pytest.mark.parametrize(("changes", "seed"), [((), 4), (("data.per_class_seed=9",), 9)])
def test_a_few_shot_run_says_so(tiny_root: Path, tmp_path: Path, changes: tuple[str, ...], seed: int) -> None:
    run = finished(
        tiny_root,
        tmp_path / "run",
        "data.per_class=1",
        "data.codec=none",
        "batch_size=2",
        "seed=4",
        *changes,
        method=none(),
    )
    summary = read_summary(run)
    assert summary is not None
    loader = CacheLoader(open_cache(tiny_root), [], StreamConfig(batch_size=4))
    num_classes = len({label for batch in loader for label in batch.labels.tolist()})
    assert summary["num_train_images"] == num_classes
    assert row(card_of(run, tmp_path / "out"), "images in use") == [
        "images in use", f"{num_classes}: 1 of every class, drawn with seed {seed}"
    ]  # fmt: skip


def test_all_images_need_no_word(run: Path, tmp_path: Path) -> None:
    assert "images in use" not in card_of(run, tmp_path / "out")


def test_what_is_not_known_is_unknown(run: Path, tmp_path: Path) -> None:
    card = card_of(run, tmp_path / "out")
    assert card.startswith("---\nlicense: unknown\nlibrary_name: timm\n")
    assert "Licence of these weights: unknown." in card
    assert row(card, "source")[1] == "digits; the name of the data set is unknown"


@pytest.mark.slow
def test_the_code_on_it_runs_as_printed(run: Path, tmp_path: Path) -> None:
    card = card_of(run, tmp_path / "out")
    [code] = [block.split("```")[0] for block in card.split("```python\n")[1:]]
    code = code.replace("local-dir:FOLDER", "local-dir:out")
    shown = in_a_fresh_process(f"import sys\n{WITHOUT_KDCACHE}\n{code}\nprint(transform)", tmp_path)
    assert "Resize(size=" in shown
    assert "CenterCrop(size=(16, 16))" in shown


@pytest.mark.parametrize(
    ("weights", "words"),
    [("none", "random weights"), ("hub", "timm's own, from the hub"), ("x.pth", "a local file; where it came from is")],
)
def test_what_the_student_began_with(run: Path, tmp_path: Path, weights: str, words: str) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    record = json.loads((copy / "config.json").read_bytes())
    record["config"]["student_weights"] = None if weights == "none" else weights
    (copy / "config.json").write_text(json.dumps(record))
    assert row(card_of(copy, tmp_path / "out"), "begins with")[1].startswith(words)


def test_a_student_of_an_own_loop(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("student.json", "student.safetensors", "origin.json"):
        (own / name).write_bytes((run / name).read_bytes())
    card = card_of(own, tmp_path / "out")
    assert "They were not evaluated." in card
    assert row(card, "epochs, optimizer, seed")[1] == "unknown: trained in a loop of its own"


def test_a_student_without_a_teacher() -> None:
    assert _teachers(ORIGIN) == "None: no term of the loss reads one."


def test_a_few_shot_subset() -> None:
    views = {"recipe": "eval", "seed": 0, "num_views": 1, "size": 16, "interpolation": "bicubic"}
    shown = _images(replace(ORIGIN, views=views, subset={"per_class": "1%", "seed": 7}))
    assert "; 1% of every class, drawn with seed 7 |" in shown


def test_licences_of_teachers() -> None:
    known = timm.get_pretrained_cfg("cait_s24_224.fb_dist_in1k")
    assert known is not None
    assert known.license
    hub = replace(TEACHER, config={"architecture": "cait_s24_224", "tag": "fb_dist_in1k"})
    assert teacher_licence(hub) == f"{known.license}, as timm {timm.__version__} states it"
    assert teacher_licence(replace(hub, weights="file")) == "unknown"
    assert teacher_licence(replace(hub, config={"architecture": "cait_s24_224", "tag": "mine"})) == "unknown"
    assert teacher_licence(replace(hub, config={"architecture": "no_such_model"})) == "unknown"
    assert teacher_licence(replace(hub, weights="random")) == "none, not trained"


@pytest.mark.parametrize(("text", "shown"), [("a|b\nc", "`a\\|b c`"), ("a`b", "`a'b`")])
def test_text_cannot_break_out_of_its_cell(text: str, shown: str) -> None:
    assert _code(text) == shown
