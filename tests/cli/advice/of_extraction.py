"""Advice about the teacher pass, images and weights, followed."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch

from kdcache.errors import Remedy
from tests.cli.advice.world import TEACHER_BUILT, TRAINING, Scenario, World, small_cache, train_words
from tests.cli.support import extract_words, without
from tests.conftest import TEACHER, TEACHER_KWARGS
from tests.images.support import image_bytes, tree, write_tar


def photos(folder: Path, *, num_broken: int = 0) -> Path:
    """Two classes of three images, of which some cannot be read."""
    for number in range(6):
        path = folder / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x89PNG broken" if number < num_broken else image_bytes(number, "PNG"))
    return folder / "photos"


def weights(path: Path, *, factor: float = 1.0, num_classes: int = 10) -> Path:
    """A teacher's weights; with a factor its last tokens are as large."""
    torch.manual_seed(0)
    model = timm.create_model(TEACHER, **{**TEACHER_KWARGS, "num_classes": num_classes})
    state = model.state_dict()
    state["blocks.1.mlp.fc2.bias"] += factor - 1
    torch.save(state, path)
    return path


def extract_again(words: list[str], **flags: str) -> list[str]:
    """The same command with other values."""
    names = {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
    return [*without(words, *names), *(word for flag, value in names.items() for word in (flag, value))]


def with_tar(world: World, members: dict[str, bytes], name: str = "t.tar") -> list[str]:
    return extract_words(world.folder / "c", data=str(write_tar(world.folder / name, members)), limit=None)


def extract_it(world: World, request: pytest.FixtureRequest) -> None:
    out = world.folder / "c"
    world.fails(Remedy.EXTRACT, "show", out)
    world.goes(*extract_words(out))
    world.works("show", out)


def extract_elsewhere(world: World, request: pytest.FixtureRequest) -> None:
    root = world.copy(request.getfixturevalue("tiny_root"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcache.cache.manifest.FORMAT_VERSION", 3)
        world.fails(Remedy.EXTRACT_ELSEWHERE, "show", root)
    world.works(*extract_words(world.folder / "again"))
    world.works("show", world.folder / "again")


def finish_extraction(world: World, request: pytest.FixtureRequest) -> None:
    words = extract_words(world.folder / "c")
    world.works(*words)
    (world.folder / "c" / "manifest.json").unlink()
    world.fails(Remedy.FINISH_EXTRACTION, "show", world.folder / "c")
    world.works(*words)
    world.works("show", world.folder / "c")


def same_plan(world: World, request: pytest.FixtureRequest) -> None:
    words = extract_words(world.folder / "c")
    world.works(*words)
    (world.folder / "c" / "manifest.json").unlink()
    world.fails(Remedy.SAME_PLAN, *words, "--seed", "1")
    world.goes(*extract_again([*words, "--seed", "1"], out=str(world.folder / "d")))
    world.works(*words)


def add_group(world: World, request: pytest.FixtureRequest) -> None:
    out = world.folder / "c"
    world.works(*extract_words(out))
    words = extract_words(out, "--group", "second", "--seed", "1")
    world.fails(Remedy.ADD_GROUP, *words)
    of_base = ("--data", "--limit", "--shard-samples", "--seed")
    world.goes(*without(words, *of_base), "--add")
    world.goes(*extract_again(words, out=str(world.folder / "d")))


def add_patch_tap(world: World, request: pytest.FixtureRequest) -> None:
    out = small_cache(world.folder / "c", taps=("head/logits",))
    analyze = ("analyze", out, "--images", "2", "--permutations", "1", "--out", world.folder / "a")
    world.fails(Remedy.ADD_PATCH_TAP, *analyze)
    add(world, out, "blocks.-1/patch")
    world.works(*analyze, "--group", "second")


def add(world: World, out: Path, *taps: str) -> None:
    """Put a second group of the same teacher into a cache."""
    words = without(extract_words(out, "--add", "--group", "second"), "--data", "--limit", "--shard-samples")
    world.goes(*words, *(word for tap in taps for word in ("--tap", tap)))


def add_pixels(world: World, request: pytest.FixtureRequest) -> None:
    out = world.small_cache()
    train = train_words(out, world.folder / "run", "--set", "data.pixels=stored")
    world.fails(Remedy.ADD_PIXELS, *train)
    world.goes("extract", "--add", "--pixels", "raw", "--out", out)
    world.works(*train, until=TRAINING)


def wider_codec(world: World, request: pytest.FixtureRequest) -> None:
    file = weights(world.folder / "w.pth", factor=1e5)
    words = extract_again(extract_words(world.folder / "c"), teacher_weights=str(file), tap="blocks.-1/patch")
    world.fails(Remedy.WIDER_CODEC, *words)
    world.goes(*words, "--codec", "fp32")


def finer_codec(world: World, request: pytest.FixtureRequest) -> None:
    words = extract_words(world.folder / "c", "--tap", "blocks.-1/patch", "--max-error", "0.0001")
    world.fails(Remedy.FINER_CODEC, *words, "--codec", "int8")
    world.goes(*extract_again(words, out=str(world.folder / "d")), "--codec", "fp32")
    world.goes(*extract_again(words, out=str(world.folder / "e"), max_error="0.5"), "--codec", "int8")


def accept_bad_images(world: World, request: pytest.FixtureRequest) -> None:
    words = extract_words(world.folder / "c", data=str(photos(world.folder, num_broken=2)), limit=None)
    world.fails(Remedy.ACCEPT_BAD_IMAGES, *words)
    world.goes(*words, "--max-bad", "0.5")
    photos(world.folder)
    world.works(*extract_again(words, out=str(world.folder / "d")))


def remove_bad_images(world: World, request: pytest.FixtureRequest) -> None:
    root = photos(world.folder, num_broken=1)
    words = ["analyze", "--model", TEACHER, "--weights", "random", "--model-kwargs"]
    words += [f"{name}={value}" for name, value in TEACHER_KWARGS.items()]
    words += ["--data", str(root), "--permutations", "1", "--out", str(world.folder / "a")]
    world.fails(Remedy.REMOVE_BAD_IMAGES, *words)
    (root / "a" / "0.png").unlink()
    world.works(*words)


def make_room(world: World, request: pytest.FixtureRequest) -> None:
    words = extract_words(world.folder / "c")
    usage = shutil.disk_usage(world.folder)
    world.patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    world.fails(Remedy.MAKE_ROOM, *words)
    world.goes(*words, "--no-space-check")


def smaller_batch(world: World, request: pytest.FixtureRequest) -> None:
    from kdcache.models import TapReader

    plain = TapReader.__call__

    def needs_memory(reader: TapReader, model: torch.nn.Module, images: torch.Tensor) -> object:
        if len(images) > 2:
            raise torch.OutOfMemoryError
        return plain(reader, model, images)

    world.patch.setattr(TapReader, "__call__", needs_memory)
    words = extract_words(world.folder / "c")
    world.fails(Remedy.SMALLER_BATCH, *words)
    world.goes(*words, "--batch-size", "2")


def pass_source(world: World, request: pytest.FixtureRequest) -> None:
    root = photos(world.folder)
    out = small_cache(world.folder / "c", data=str(root), images="reference", limit=None)
    words = train_words(out, world.folder / "run", "--term", "logits:weight=0")
    world.fails(Remedy.PASS_SOURCE, *words)
    world.goes(*words, "--data", root, until=TRAINING)


def keys_to_last_dot(world: World, request: pytest.FixtureRequest) -> None:
    words = with_tar(world, {"a.1.jpg": b"", "a.2.jpg": b"", "a.3.jpg": b""})
    world.fails(Remedy.KEYS_TO_LAST_DOT, *words)
    world.goes(*words, "--tar-keys", "last-dot", until=TEACHER_BUILT)
    world.goes(*words, "--image-member", "2.jpg", until=TEACHER_BUILT)


def prefix_keys(world: World, request: pytest.FixtureRequest) -> None:
    with_tar(world, {"0.jpg": b""}, "u.tar")
    words = with_tar(world, {"0.jpg": b""})
    words.insert(words.index("--data") + 1, str(world.folder / "u.tar"))
    world.fails(Remedy.PREFIX_KEYS, *words)
    world.goes(*words, "--key-prefix", "tar", until=TEACHER_BUILT)


def choose_image(world: World, request: pytest.FixtureRequest) -> None:
    words = with_tar(world, {"0.jpg": b"", "0.png": b""})
    assert "one of jpg, png" in world.fails(Remedy.CHOOSE_IMAGE, *words)
    world.goes(*words, "--image-member", "png", until=TEACHER_BUILT)


def choose_labels(world: World, request: pytest.FixtureRequest) -> None:
    data = json.dumps({"label": 1, "category": 2}).encode()
    words = with_tar(world, {"0.jpg": b"", "0.json": data})
    advised = world.fails(Remedy.CHOOSE_LABELS, *words)
    for choice in advised.partition("one of ")[2].split(", "):
        world.goes(*words, "--label-member", choice, until=TEACHER_BUILT)


def name_classes(world: World, request: pytest.FixtureRequest) -> None:
    words = with_tar(world, {"0.jpg": b"", "0.cls": b"cat"})
    world.fails(Remedy.NAME_CLASSES, *words)
    (world.folder / "classes.txt").write_text("ape\ncat\n")
    world.goes(*words, "--class-map", world.folder / "classes.txt", until=TEACHER_BUILT)
    world.goes(*words, "--label-member", "none", until=TEACHER_BUILT)


def name_folders(world: World, request: pytest.FixtureRequest) -> None:
    root = tree(world.folder / "d", "train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg")
    words = extract_words(world.folder / "c", data=str(root), limit=None)
    world.fails(Remedy.NAME_FOLDERS, *words)
    (world.folder / "classes.txt").write_text("val\ntrain\n")
    world.goes(*words, "--class-map", world.folder / "classes.txt", until=TEACHER_BUILT)


def name_weights(world: World, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("blocks_root")
    world.patch.setattr("kdcache.cli.verify._check", lambda *_, **__: [])
    world.fails(Remedy.NAME_WEIGHTS, "verify", root, "--rerun-teacher", "1")
    file = root.parent / "teacher.safetensors"
    world.goes("verify", root, "--rerun-teacher", "1", "--teacher-weights", file)


def local_weights(world: World, request: pytest.FixtureRequest) -> None:
    words = without(extract_words(world.folder / "c"), "--teacher-weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", offline(timm.create_model))
        world.fails(Remedy.LOCAL_WEIGHTS, *words, "--teacher-weights", "hub")
        world.goes(*words, "--teacher-weights", weights(world.folder / "w.pth"))


def offline(create: object) -> object:
    def call(*given: object, pretrained: bool = False, **named: object) -> object:
        if pretrained:
            raise OSError("no network")
        return create(*given, **named)

    return call


def model_of_weights(world: World, request: pytest.FixtureRequest) -> None:
    file = weights(world.folder / "w.pth", num_classes=3)
    words = extract_again(extract_words(world.folder / "c"), teacher_weights=str(file))
    world.fails(Remedy.MODEL_OF_WEIGHTS, *words)
    world.goes(*(word.replace("num_classes=10", "num_classes=3") for word in words))


SCENARIOS: dict[Remedy, Scenario] = {
    Remedy.EXTRACT: extract_it,
    Remedy.EXTRACT_ELSEWHERE: extract_elsewhere,
    Remedy.FINISH_EXTRACTION: finish_extraction,
    Remedy.SAME_PLAN: same_plan,
    Remedy.ADD_GROUP: add_group,
    Remedy.ADD_PATCH_TAP: add_patch_tap,
    Remedy.ADD_PIXELS: add_pixels,
    Remedy.WIDER_CODEC: wider_codec,
    Remedy.FINER_CODEC: finer_codec,
    Remedy.ACCEPT_BAD_IMAGES: accept_bad_images,
    Remedy.REMOVE_BAD_IMAGES: remove_bad_images,
    Remedy.MAKE_ROOM: make_room,
    Remedy.SMALLER_BATCH: smaller_batch,
    Remedy.PASS_SOURCE: pass_source,
    Remedy.KEYS_TO_LAST_DOT: keys_to_last_dot,
    Remedy.PREFIX_KEYS: prefix_keys,
    Remedy.CHOOSE_IMAGE: choose_image,
    Remedy.CHOOSE_LABELS: choose_labels,
    Remedy.NAME_CLASSES: name_classes,
    Remedy.NAME_FOLDERS: name_folders,
    Remedy.NAME_WEIGHTS: name_weights,
    Remedy.LOCAL_WEIGHTS: local_weights,
    Remedy.MODEL_OF_WEIGHTS: model_of_weights,
}
