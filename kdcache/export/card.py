"""The model card of a student: what its run recorded, and "unknown" for the rest."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import timm

from kdcache.export.weights import Measured
from kdcache.students.change import Unchanged
from kdcache.students.student import StudentSpec
from kdcache.train.origin import Origin, TeacherOrigin

UNKNOWN = "unknown"
_LOCAL_DIR_SINCE = "1.0.16"
_FRONT = """---
license: unknown
library_name: timm
pipeline_tag: image-classification
tags:
- image-classification
- timm
- kdcache
---
"""
_WEIGHTS = {
    "hub": "timm's own, from the hub",
    "file": "a local file; where it came from is unknown",
    "random": "random, not trained",
}
_ELSEWHERE = ("name", "weight", "teacher", "student_block")


@final
@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card is made of.

    Args:
        spec: The student.
        origin: What it learned from.
        measured: Which weights these are, and their accuracy.
        run: Configuration, versions and commit of the run; None for a student of one's own loop.
        summary: Figures of the run; None as above.
        num_parameters: Of the student.
        weights_sha256: Over names and bytes of its tensors.
        with_onnx: Whether an ONNX graph lies beside it.
    """

    spec: StudentSpec
    origin: Origin
    measured: Measured
    run: dict[str, Any] | None
    summary: dict[str, Any] | None
    num_parameters: int
    weights_sha256: str
    with_onnx: bool


def card_text(card: Card, config: dict[str, Any]) -> str:
    """The card as Markdown, with the metadata that the hub reads.

    Args:
        card: The facts.
        config: What `timm_config` gave.
    """
    sections = (
        f"# {card.spec.name}, trained with the method {card.origin.method}",
        f"{card.num_parameters / 1e6:.2f} M parameters, {card.spec.num_classes} classes, images of "
        f"{card.spec.image_size} x {card.spec.image_size} pixels.",
        _use(card, config),
        "## Accuracy",
        _accuracy(card),
        "## Training",
        _training(card),
        _terms(card.origin.terms),
        "## Teachers",
        _teachers(card.origin),
        "## Images",
        _images(card.origin),
        "## Licence",
        f"Licence of these weights: {UNKNOWN}. It may depend on those of the teachers' weights and of the images.",
        "## Versions",
        _versions(card),
    )
    return _FRONT + "\n" + "\n\n".join(section for section in sections if section) + "\n"


def teacher_licence(teacher: TeacherOrigin) -> str:
    """Licence of a teacher's weights as the installed timm states it; unknown where they are not timm's."""
    if teacher.weights == "random":
        return "none, not trained"
    if teacher.weights != "hub":
        return UNKNOWN
    architecture, tag = teacher.config.get("architecture", teacher.name), teacher.config.get("tag")
    try:
        known = timm.get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    except RuntimeError:  # a tag that this timm does not know
        return UNKNOWN
    licence = None if known is None else known.license
    return f"{licence}, as timm {timm.__version__} states it" if licence else UNKNOWN


def _use(card: Card, config: dict[str, Any]) -> str:
    graph = (
        "\n\n`model.onnx` takes `images` (B, 3, S, S), normalised float32, and gives `logits` (B, K), for any B."
        if card.with_onnx
        else ""
    )
    registers = "import kdcache.students.register  # makes the architecture known to timm\n"
    return f"""```python
{"" if isinstance(card.spec.change, Unchanged) else registers}import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
```

`FOLDER` is the one that holds this card (timm {_LOCAL_DIR_SINCE} or newer); on the hub it is `hf-hub:USER/NAME`. The
architecture is `{config["architecture"]}`.{graph}"""


def _accuracy(card: Card) -> str:
    found, settings = card.measured, _settings(card)
    if found.epoch is None:
        return f"Weights: {found.meaning}. They were not evaluated."
    weights = f"Weights: {found.meaning} (epoch {found.epoch} of {settings.get('epochs', UNKNOWN)}), seed "
    weights += f"{settings.get('seed', UNKNOWN)}."
    if found.accuracy is None:
        return f"{weights} These weights were not evaluated during training."
    accuracy, bad = found.accuracy, found.accuracy["num_bad"]
    images = f"{accuracy['num_images']:,}" + (f", {bad:,} undecodable ones counted as wrong" if bad else "")
    data = settings.get("eval", {}).get("data")
    row = [f"{accuracy['top1']:.2f} %", f"{accuracy['top5']:.2f} %", images, _code(data) if data else UNKNOWN]
    table = _table(["top-1", "top-5", "images", "data"], [row])
    return f"{weights}\n\n{table}\n\nOne run with one seed; other seeds differ."


def _training(card: Card) -> str:
    change = {name: value for name, value in card.origin.change.items() if value is not None}
    rows = [
        ["method", _code(card.origin.method)],
        ["change of the student", _code(change.pop("name")) + (f" {_pairs(change)}" if change else "")],
        ["student arguments", _pairs(card.spec.kwargs) or "none"],
        ["teacher outputs", "computed beside the student" if card.origin.online else "read from a cache"],
        ["cache", _code(f"sha256 {card.origin.cache}")],
    ]
    settings, summary = _settings(card), card.summary or {}
    optimizer = settings.get("optimizer")
    for name, value in (
        ("begins with", _beginning(card)),
        ("images in use", _few_shot(settings, summary)),
        ("epochs", settings.get("epochs")),
        ("optimizer steps", summary.get("steps")),
        ("batch size", settings.get("batch_size")),
        ("seed", settings.get("seed")),
        ("precision", summary.get("precision")),
        ("optimizer", _pairs(optimizer) if optimizer else None),
        ("schedule", _pairs(settings["scheduler"]) if "scheduler" in settings else None),
    ):
        if value is not None:
            rows.append([name, str(value)])
    if not settings:
        rows.append(["epochs, optimizer, seed", "unknown: trained in a loop of its own"])
    return _table(["", ""], rows)


def _beginning(card: Card) -> str | None:
    """Weights before training; None where there is no run that says so."""
    if card.run is None:
        return None
    weights = _settings(card).get("student_weights")
    if weights in (None, "random"):
        return "random weights"
    return _WEIGHTS.get(weights, _WEIGHTS["file"])


def _terms(terms: Sequence[dict[str, Any]]) -> str:
    rows = []
    for term in terms:
        settings = {name: value for name, value in term["settings"].items() if name not in _ELSEWHERE}
        rows.append(
            [
                _code(term["label"]),
                f"{term['weight']:g}",
                ", ".join(map(_code, term["columns"])) or "-",
                ", ".join(map(_code, term["student_taps"])) or "-",
                _pairs(settings) or "-",
            ]
        )
    return _table(["term of the loss", "weight", "reads of the teachers", "of the student", "settings"], rows)


def _teachers(origin: Origin) -> str:
    if not origin.teachers:
        return "None: no term of the loss reads one."
    rows = []
    for teacher in origin.teachers.values():
        address = teacher.config.get("hf_hub_id") if teacher.weights == "hub" else None
        rows.append(
            [
                _code(teacher.name) + (f" {_pairs(teacher.kwargs)}" if teacher.kwargs else ""),
                _WEIGHTS.get(teacher.weights, UNKNOWN) + (f", {_code(address)}" if address else ""),
                _code(teacher.weights_sha256),
                teacher_licence(teacher),
            ]
        )
    return _table(["model", "weights", "sha256 of its tensors", "licence of the weights"], rows)


def _few_shot(settings: dict[str, Any], summary: dict[str, Any]) -> str | None:
    """The few of the cache's images that the run streamed; None for all of them."""
    data = settings.get("data", {})
    if data.get("per_class") is None:
        return None
    seed = settings["seed"] if data.get("per_class_seed") is None else data["per_class_seed"]
    return f"{summary.get('num_train_images', UNKNOWN)}: {data['per_class']} of every class, drawn with seed {seed}"


def _images(origin: Origin) -> str:
    views = origin.views
    drawn = {**views.get("params", {}), "seed": views["seed"]} if views["recipe"] != "eval" else {}
    jpeg = f", through JPEG of quality {views['jpeg_quality']}" if views.get("jpeg_quality") else ""
    bad = f", {origin.num_bad_images:,} bad ones left out" if origin.num_bad_images else ""
    subset = ""
    if origin.subset is not None:
        subset = f"; {origin.subset['per_class']} of every class, drawn with seed {origin.subset['seed']}"
    rows = [
        ["source", f"{origin.source_kind}; the name of the data set is {UNKNOWN}{subset}"],
        ["images", f"{origin.num_images:,}{bad}"],
        ["classes of the labels", f"{origin.num_classes:,}" if origin.num_classes else "none"],
        ["views of each image", f"{views['num_views']}, recipe {_code(views['recipe'])} {_pairs(drawn)}".rstrip()],
        ["size of a view", f"{views['size']} pixels, {views['interpolation']}{jpeg}"],
    ]
    return _table(["", ""], rows)


def _versions(card: Card) -> str:
    commit = (card.run or {}).get("git_commit")
    names = [f"{name} {version}" for name, version in card.origin.versions.items()]
    return (
        ", ".join([*names, *([f"commit {_code(commit)}"] if commit else [])])
        + f".\n\nsha256 over names and bytes of the student's tensors: {_code(card.weights_sha256)}."
    )


def _settings(card: Card) -> dict[str, Any]:
    return {} if card.run is None else card.run["config"]


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(_code(f"{name}={json.dumps(value)}") for name, value in values.items() if value is not None)


def _code(text: str) -> str:
    """Text that cannot break out of its place in a table."""
    plain = " ".join(text.split()).replace("|", "\\|").replace("`", "'")
    return f"`{plain}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
