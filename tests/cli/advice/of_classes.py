"""Advice about the classes of labels and teachers, names of models, versions and weights, followed."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from kdcache.errors import Remedy
from kdcache.models.hub import hub_problem
from tests.cli.advice.of_extraction import photos
from tests.cli.advice.of_training import EVALUATED, finished
from tests.cli.advice.world import TEACHER_BUILT, TRAINING, Scenario, World, small_cache, train_words
from tests.conftest import TEACHER_KWARGS, flip_bit
from tests.models.test_names import save_fine_tuned


def separate_classes(world: World, request: pytest.FixtureRequest) -> None:
    cache = small_cache(world.folder / "c", data=str(photos(world.folder)), limit=None)
    train = train_words(cache, world.folder / "run")
    world.fails(Remedy.SEPARATE_CLASSES, *train)
    for way in ("--term logits:weight=0", "--term cross-entropy:weight=0", "--set same_classes=true"):
        world.works(*train, *way.split(), until=TRAINING)


def leave_out_labels_or_logits(world: World, request: pytest.FixtureRequest) -> None:
    cache = small_cache(world.folder / "c", teacher_kwargs={**TEACHER_KWARGS, "num_classes": 5})
    train = train_words(cache, world.folder / "run")
    world.fails(Remedy.LEAVE_OUT_LABELS_OR_LOGITS, *train)
    for term in ("logits:weight=0", "cross-entropy:weight=0"):
        world.goes(*train, "--term", term, until=TRAINING)


def name_student_classes(world: World, request: pytest.FixtureRequest) -> None:
    data = photos(world.folder)
    cache, run = small_cache(world.folder / "c", data=str(data), limit=None), world.folder / "run"
    world.works(*train_words(cache, run, "--term", "cross-entropy:weight=0"))
    names = world.folder / "names.txt"
    names.write_text("\n".join(["a", *"cdefghij", "b"]))
    world.fails(Remedy.NAME_STUDENT_CLASSES, "eval", run, "--data", data)
    world.goes("eval", run, "--data", data, "--class-map", names, until=EVALUATED)


def local_model(world: World, request: pytest.FixtureRequest) -> None:
    world.patch.setattr(constants, "HF_HUB_CACHE", str(world.folder / "hub"))
    world.patch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_problem.cache_clear()
    request.addfinalizer(hub_problem.cache_clear)
    extract = ["extract", "--data", "digits:train", "--limit", "4", "--out", str(world.folder / "c"), "--teacher"]
    assert "local-dir:FOLDER" in world.fails(Remedy.LOCAL_MODEL, *extract, "hf-hub:org/birds")
    save_fine_tuned(world.folder / "birds")
    world.works(*extract, f"local-dir:{world.folder / 'birds'}", until=TEACHER_BUILT)


def accept_versions(world: World, request: pytest.FixtureRequest) -> None:
    run = finished(world, request)
    train = train_words(request.getfixturevalue("tiny_root"), run, "--codec", "fp16")
    train[train.index("--epochs") + 1] = "2"
    world.patch.setattr("timm.__version__", "99.1")
    world.fails(Remedy.ACCEPT_VERSIONS, *train)
    world.goes(*train, "--accept-versions", until=TRAINING)


def accept_loss(world: World, request: pytest.FixtureRequest) -> None:
    data = photos(world.folder, num_broken=1)
    cache = small_cache(world.folder / "c", data=str(data), limit=None, max_bad=0.5)
    [named] = [path for path in (cache / "ledger").iterdir() if path.stat().st_size]
    named.unlink()
    world.fails(Remedy.ACCEPT_LOSS, "verify", cache, "--rebuild")
    world.goes("verify", cache, "--rebuild", "--accept-loss")


def other_weights(world: World, request: pytest.FixtureRequest) -> None:
    run = finished(world, request, "--set", "ema_decay=0.9")
    weights: Path = run / "student.safetensors"
    flip_bit(weights, weights.stat().st_size - 4)
    world.fails(Remedy.OTHER_WEIGHTS, "eval", run, "--data", "digits:test")
    world.goes("eval", run, "--data", "digits:test", "--weights", "ema", until=EVALUATED)


SCENARIOS: dict[Remedy, Scenario] = {
    Remedy.SEPARATE_CLASSES: separate_classes,
    Remedy.LEAVE_OUT_LABELS_OR_LOGITS: leave_out_labels_or_logits,
    Remedy.NAME_STUDENT_CLASSES: name_student_classes,
    Remedy.LOCAL_MODEL: local_model,
    Remedy.ACCEPT_VERSIONS: accept_versions,
    Remedy.ACCEPT_LOSS: accept_loss,
    Remedy.OTHER_WEIGHTS: other_weights,
}
