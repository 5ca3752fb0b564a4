"""Advice about training, what comes after it, and analyses, followed."""

from pathlib import Path

import pytest
import torch

from kdcache.errors import Remedy
from tests.cli.advice.of_extraction import add, photos
from tests.cli.advice.world import TRAINING, Scenario, World, small_cache, train_words
from tests.cli.support import without
from tests.conftest import TEACHER, TEACHER_KWARGS
from tests.images.support import image_bytes, write_tar

EVALUATED = "kdcache.train.evaluate.evaluate"


def add_column(world: World, request: pytest.FixtureRequest) -> None:
    out = world.small_cache()
    train = train_words(out, world.folder / "run", method="feature:teacher=blocks.0/patch")
    advised = world.fails(Remedy.ADD_COLUMN, *train)
    assert "--tap blocks.0/patch" in advised
    add(world, out, "blocks.0/patch")
    world.works(*train, until=TRAINING)


def add_columns(world: World, request: pytest.FixtureRequest) -> None:
    out = world.small_cache()
    student = ["--change", "low-rank:rank=2", "--student-weights", "random", "--term", "local", "--codec", "fp16"]
    train = train_words(out, world.folder / "run", *student, method="none")
    train = [word.replace("depth=1", "depth=2").replace("embed_dim=12", "embed_dim=24") for word in train]
    world.fails(Remedy.ADD_COLUMNS, *train)
    add(world, out, *(f"blocks.{block}/{kind}" for block in range(2) for kind in ("patch", "prefix")))
    # Now two groups have tokens of these blocks, and the next piece of advice says how to tell them apart.
    world.fails(Remedy.CHOOSE_COLUMN, *train)
    world.goes(*without(train, "--term"), "--term", "local:teacher=second:", until=TRAINING)


def choose_column(world: World, request: pytest.FixtureRequest) -> None:
    train = train_words(request.getfixturevalue("tiny_root"), world.folder / "run")
    world.fails(Remedy.CHOOSE_COLUMN, *train)
    world.goes(*train, "--codec", "fp16", until=TRAINING)
    column = "vit-tiny-patch16-224:head/logits:topk"
    world.goes(*train, "--term", f"logits:teacher={column}", until=TRAINING)


def set_width(world: World, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("groups_root")
    train = train_words(root, world.folder / "run", "--change", "lift", method="none")
    world.fails(Remedy.SET_WIDTH, *train)
    world.goes(*train, "--set", "method.change.width=24", until=TRAINING)


def add_teacher(world: World, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("tiny_root")
    train = train_words(root, world.folder / "run", "--codec", "fp16")
    world.fails(Remedy.ADD_TEACHER, *train, "--set", "teacher=resnet18")
    world.goes(*train, "--set", f"teacher={TEACHER}", until=TRAINING)


def train_without_labels(world: World, request: pytest.FixtureRequest) -> None:
    out = small_cache(world.folder / "c", data=str(photos(world.folder) / "a"), limit=None)
    train = train_words(out, world.folder / "run")
    train[train.index("4")] = "3"
    world.fails(Remedy.TRAIN_WITHOUT_LABELS, *train)
    train = without(train, "--method")
    world.goes(*train, "--method", "logit:logit_weight=1", until=TRAINING)
    features = ["--term", "cross-entropy:weight=0", "--term", "logits:weight=0"]
    world.works(*train, "--method", "feature", *features, until=TRAINING)


def leave_out_classes_or_logits(world: World, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("tiny_root")
    train = train_words(root, world.folder / "run", "--codec", "fp16")
    world.fails(Remedy.LEAVE_OUT_CLASSES_OR_LOGITS, *train, "--set", "num_classes=20")
    world.works(*train, until=TRAINING)
    train = without(train, "--codec")
    world.works(*train, "--set", "num_classes=20", "--term", "logits:weight=0", until=TRAINING)


def match_grid(world: World, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("tiny_root")
    method = "feature:teacher=blocks.0/patch"
    train = train_words(root, world.folder / "run", "--codec", "fp16", method=method)
    coarse = [word.replace("patch_size=4", "patch_size=8") for word in train]
    world.fails(Remedy.MATCH_GRID, *coarse)
    world.works(*train, until=TRAINING)
    for choice in ("student", "teacher"):
        world.goes(*coarse, "--term", f"tokens:resize={choice}", until=TRAINING)
    words = without(train, "--student", "--student-kwargs")
    world.fails(Remedy.MATCH_GRID, *words, "--student", "test_resnet")
    world.goes(*words, "--student", "test_resnet", "--term", "tokens:student_block=-4", until=TRAINING)


def other_tokens(world: World, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("tiny_root")
    train = train_words(root, world.folder / "run", "--codec", "fp16", method="feature:teacher=blocks.-1/prefix")
    world.fails(Remedy.OTHER_TOKENS, *(word.replace(TEACHER, "deit_tiny_distilled_patch16_224") for word in train))
    world.works(*(word.replace("-1/prefix", "-1/patch") for word in train), until=TRAINING)


def stabilise(world: World, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("tiny_root")
    train = train_words(root, world.folder / "run", "--codec", "fp16", "--set", "log_every=1")
    world.fails(Remedy.STABILISE, *train, "--set", "optimizer.lr=1e30", "--set", "optimizer.clip_grad=null")
    train[train.index(str(world.folder / "run"))] = str(world.folder / "again")
    world.goes(*train, "--set", "optimizer.lr_per_512=0.0001", "--set", "optimizer.clip_grad=1")


def finished(world: World, request: pytest.FixtureRequest, *more: str) -> Path:
    """A run of one epoch."""
    root = request.getfixturevalue("tiny_root")
    if not more:
        return world.finished_run(root)
    folder = world.folder / f"run-{len(list(world.folder.iterdir()))}"
    world.works(*train_words(root, folder, "--codec", "fp16", *more))
    return folder


def same_run(world: World, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("tiny_root")
    run = finished(world, request)
    world.fails(Remedy.SAME_RUN, *train_words(root, run, "--codec", "fp16", "--seed", "1"))
    world.works(*train_words(root, run, "--codec", "fp16"))
    elsewhere = train_words(root, world.folder / "other", "--codec", "fp16", "--seed", "1")
    world.goes(*elsewhere, until=TRAINING)


def finish_training(world: World, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("tiny_root")
    train = train_words(root, world.folder / "run", "--codec", "fp16")
    world.works(*train, until=TRAINING)
    world.fails(Remedy.FINISH_TRAINING, "export", world.folder / "run", "--out", world.folder / "e")
    world.works(*train)
    world.works("export", world.folder / "run", "--out", world.folder / "e")


def evaluate_while_training(world: World, request: pytest.FixtureRequest) -> None:
    run = finished(world, request)
    world.fails(Remedy.EVALUATE_WHILE_TRAINING, "eval", run, "--data", "digits:test", "--weights", "best")
    world.goes("eval", run, "--data", "digits:test", "--weights", "last", until=EVALUATED)
    root = request.getfixturevalue("tiny_root")
    run = world.folder / "evaluated"
    world.goes(*train_words(root, run, "--codec", "fp16", "--eval-data", "digits:test"))
    world.works("eval", run, "--data", "digits:test", "--weights", "best", until=EVALUATED)


def keep_milestones(world: World, request: pytest.FixtureRequest) -> None:
    run = finished(world, request)
    world.fails(Remedy.KEEP_MILESTONES, "eval", run, "--data", "digits:test", "--weights", "epoch-1")
    world.goes("eval", run, "--data", "digits:test", "--weights", "last", until=EVALUATED)
    run = world.folder / "kept"
    train = train_words(request.getfixturevalue("tiny_root"), run, "--codec", "fp16")
    train[train.index("--epochs") + 1] = "2"
    world.goes(*train, "--set", "checkpoint.milestone_every=1")
    world.works("eval", run, "--data", "digits:test", "--weights", "epoch-1", until=EVALUATED)


def replace_export(world: World, request: pytest.FixtureRequest) -> None:
    words = ("export", finished(world, request), "--out", world.folder / "e")
    world.works(*words)
    world.fails(Remedy.REPLACE_EXPORT, *words)
    world.goes(*words, "--replace")
    world.fails(Remedy.REPLACE_EXPORT, *words)
    world.goes(*words[:-1], world.folder / "f")


def other_data_or_classes(world: World, request: pytest.FixtureRequest) -> None:
    images = {f"{number}.jpg": image_bytes(number) for number in range(4)}
    images |= {f"{number}.cls": b"3" for number in range(4)}
    images = dict(sorted(images.items()))
    root = small_cache(world.folder / "c", data=str(write_tar(world.folder / "t.tar", images)), limit=None)
    data = str(write_tar(world.folder / "other.tar", {"a.jpg": b"", "a.cls": b"11"}))
    train = train_words(root, world.folder / "run", method="none")
    world.fails(Remedy.OTHER_DATA_OR_CLASSES, *train, "--eval-data", data)
    world.works(*train, "--eval-data", world.folder / "t.tar", until=TRAINING)
    world.goes(*train, "--eval-data", data, "--set", "num_classes=12", until=TRAINING)


def sweep_words(world: World, root: Path) -> list[str]:
    train = train_words(root, world.folder / "sweep", "--codec", "fp16", method="low-rank")
    train = [word.replace("depth=1", "depth=2").replace("embed_dim=12", "embed_dim=24") for word in train]
    return ["sweep", *train[1:], "--ranks", "1,2,3"]


def give_teacher_accuracy(world: World, request: pytest.FixtureRequest) -> None:
    words = [*sweep_words(world, request.getfixturevalue("tiny_root")), "--eval-data", "digits:test"]
    world.fails(Remedy.GIVE_TEACHER_ACCURACY, *words, "--student-weights", "random")
    world.goes(*words, "--student-weights", "random", "--teacher-accuracy", "90", until=TRAINING)
    import timm

    torch.save(timm.create_model(TEACHER, **TEACHER_KWARGS).state_dict(), world.folder / "w.pth")
    world.goes(*words, "--student-weights", world.folder / "w.pth", until=TRAINING)


def give_eval_data(world: World, request: pytest.FixtureRequest) -> None:
    words = [*sweep_words(world, request.getfixturevalue("tiny_root")), "--student-weights", "random"]
    words += ["--teacher-accuracy", "90"]
    world.fails(Remedy.GIVE_EVAL_DATA, *words)
    world.goes(*words, "--eval-data", "digits:test", until=TRAINING)


def give_student_weights(world: World, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("tiny_root")
    train = train_words(root, world.folder / "run", "--codec", "fp16", method="low-rank:rank=2")
    world.fails(Remedy.GIVE_STUDENT_WEIGHTS, *train)
    world.goes(*train, "--student-weights", "random", until=TRAINING)


def analyze(world: World, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("tiny_root")
    out = world.folder / "a"
    out.mkdir()
    (out / "analysis.json").write_text('{"format": 0}')
    page = ("report", out, "--out", world.folder / "page.html")
    world.fails(Remedy.ANALYZE, *page)
    world.goes("analyze", root, "--images", "2", "--permutations", "1", "--out", out)
    world.works(*page)


def name_one_column(world: World, request: pytest.FixtureRequest) -> None:
    words = ["analyze", request.getfixturevalue("tiny_root"), "--images", "2", "--permutations", "1", "--out", "a"]
    two = ["--column", "blocks-1-patch-int8", "--column", "blocks-1-patch-fp16"]
    world.fails(Remedy.NAME_ONE_COLUMN, *words, *two)
    world.goes(*words, *two[:2])


def name_one_group(world: World, request: pytest.FixtureRequest) -> None:
    words = ["analyze", request.getfixturevalue("groups_root"), "--images", "2", "--permutations", "1", "--out", "a"]
    column = ["--column", "blocks-1-patch-fp16", "--column", "wide/blocks-1-patch-int8"]
    world.fails(Remedy.NAME_ONE_GROUP, *words, *column)
    world.goes(*words, "--group", "wide")


def read_records(world: World, request: pytest.FixtureRequest) -> None:
    root = small_cache(world.folder / "c", statistics="light")
    words = ["analyze", str(root), "--permutations", "1", "--out", "a"]
    world.fails(Remedy.READ_RECORDS, *words, "--images", "0")
    world.works(*words)


SCENARIOS: dict[Remedy, Scenario] = {
    Remedy.ADD_COLUMN: add_column,
    Remedy.ADD_COLUMNS: add_columns,
    Remedy.CHOOSE_COLUMN: choose_column,
    Remedy.SET_WIDTH: set_width,
    Remedy.ADD_TEACHER: add_teacher,
    Remedy.TRAIN_WITHOUT_LABELS: train_without_labels,
    Remedy.LEAVE_OUT_CLASSES_OR_LOGITS: leave_out_classes_or_logits,
    Remedy.MATCH_GRID: match_grid,
    Remedy.OTHER_TOKENS: other_tokens,
    Remedy.STABILISE: stabilise,
    Remedy.SAME_RUN: same_run,
    Remedy.FINISH_TRAINING: finish_training,
    Remedy.EVALUATE_WHILE_TRAINING: evaluate_while_training,
    Remedy.KEEP_MILESTONES: keep_milestones,
    Remedy.REPLACE_EXPORT: replace_export,
    Remedy.OTHER_DATA_OR_CLASSES: other_data_or_classes,
    Remedy.GIVE_TEACHER_ACCURACY: give_teacher_accuracy,
    Remedy.GIVE_EVAL_DATA: give_eval_data,
    Remedy.GIVE_STUDENT_WEIGHTS: give_student_weights,
    Remedy.ANALYZE: analyze,
    Remedy.NAME_ONE_COLUMN: name_one_column,
    Remedy.NAME_ONE_GROUP: name_one_group,
    Remedy.READ_RECORDS: read_records,
}
