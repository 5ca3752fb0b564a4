"""The grids of the accuracy benchmark: teacher, student, cache, and the command line of every row."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy_teacher import TeacherTraining
from kdcache.models import count_parameters
from kdcache.students.student import StudentSpec, build_student
from kdcache.students.wide_last import WideLastChange

STUDENT = "vit_tiny_patch16_224"
_TAP = "blocks.-1/patch"
# Beside fp16, the largest first; the rank of factor is a share of the tokens of a view.
SMALL_CODECS = ("int8c", "int8", "int4", "factor")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One size of the benchmark; what the results file says under ``grid``.

    Args:
        teacher: The teacher and its training.
        student: Arguments of the timm student.
        images: How many training images the cache holds.
        views: Of each image, in the cache.
        scale: Range of a view's fraction of the image's area.
        epochs, batch_size, lr: Of every student.
        jobs: Runs at a time.
        cpu_threads: Of a run on a CPU.
    """

    teacher: TeacherTraining
    student: dict[str, Any]
    images: int
    views: int = 2
    scale: tuple[float, float] = (0.7, 1.0)
    epochs: int
    batch_size: int
    lr: float
    jobs: int
    cpu_threads: int = 1


def vit(**more: Any) -> dict[str, Any]:
    """Arguments of a small ViT for images of 32 pixels and 10 classes."""
    return {"img_size": 32, "num_classes": 10, **more}


def teacher_vit(**more: Any) -> dict[str, Any]:
    """The same without class token, so that the head reads the last block's patch tokens."""
    return vit(class_token=False, global_pool="avg", **more)


GRIDS = {
    "toy": Grid(
        teacher=TeacherTraining(
            kwargs=teacher_vit(patch_size=8, embed_dim=32, depth=2, num_heads=2), epochs=1, batch_size=16, lr=2e-3
        ),
        student=vit(patch_size=8, embed_dim=16, depth=2, num_heads=2),
        images=16,
        epochs=1,
        batch_size=8,
        lr=1e-3,
        jobs=2,
    ),
    "reduced": Grid(
        teacher=TeacherTraining(
            kwargs=teacher_vit(patch_size=8, embed_dim=96, depth=4, num_heads=4), epochs=3, batch_size=64, lr=2e-3
        ),
        student=vit(patch_size=8, embed_dim=48, depth=3, num_heads=2),
        images=3000,
        epochs=8,
        batch_size=64,
        lr=2e-3,
        jobs=2,
    ),
    "full": Grid(
        teacher=TeacherTraining(
            kwargs=teacher_vit(patch_size=4, embed_dim=192, depth=9, num_heads=6),
            epochs=30,
            batch_size=512,
            lr=1.5e-3,
            precision="bf16",
        ),
        student=vit(patch_size=4, embed_dim=96, depth=6, num_heads=3),
        images=50000,
        epochs=6,
        batch_size=512,
        lr=2e-3,
        jobs=6,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Args:
        method: Words of ``kdcache train`` behind the common ones.
        width: Of the student; None for the grid's.
        codec: Column of the token term; None for a row without one.
        online: Whether the teacher runs beside the student.
    """

    method: tuple[str, ...]
    width: int | None = None
    codec: str | None = None
    online: bool = False


def rows_of(grid: Grid) -> dict[str, Row]:
    """Every row but the teacher's, by name.

    Presets have the papers' weights; those of gram (2, as in its paper) and of token similarity are not tuned.
    """
    wide, narrow = grid.teacher.kwargs["embed_dim"], grid.student["embed_dim"]
    gram = ("--method", "logit", "--term", f"gram:teacher={_TAP},weight=2")
    similarity = ("--method", "logit", "--term", f"token-similarity:teacher={_TAP},weight=0.2")
    return {
        "none": Row(method=("--method", "none")),
        "logit": Row(method=("--method", "logit")),
        "feature": Row(method=("--method", "feature"), codec="fp16"),
        "lift": Row(method=("--method", "lift"), codec="fp16"),
        "widelast": Row(method=("--method", "widelast"), codec="fp16"),
        "spectral": Row(method=("--method", "spectral"), codec="fp16"),
        "logit + gram": Row(method=gram, codec="fp16"),
        "logit + token-similarity": Row(method=similarity, codec="fp16"),
        "lift without tokens": Row(method=("--method", f"lift:feature_weight=0,width={wide}")),
        "widelast without tokens": Row(method=("--method", f"widelast:feature_weight=0,width={wide}")),
        "GAP + LayerNorm": Row(method=("--method", f"lift:feature_weight=0,width={narrow}")),
        "uniform width": Row(method=("--method", "logit"), width=uniform_width(grid)),
        **{
            f"{method}, {codec}": Row(method=("--method", method), codec=codec)
            for codec in SMALL_CODECS
            for method in ("feature", "lift")
        },
        "lift, online": Row(method=("--method", "lift"), codec="fp16", online=True),
    }


def extract_words(grid: Grid, work: Path, *, train: str, device: str) -> list[str]:
    """``kdcache extract``: one cache with the logits and the tokens under every codec, and with raw pixels."""
    side = grid.teacher.size // grid.teacher.kwargs["patch_size"]
    codecs = ["fp16", *(f"factor={side**2 * 3 // 8}" if codec == "factor" else codec for codec in SMALL_CODECS)]
    return [
        *("extract", "--data", train, "--out", str(work / "cache"), "--limit", str(grid.images)),
        *("--teacher", grid.teacher.name, "--teacher-weights", str(work / "teacher.safetensors")),
        *("--teacher-kwargs", *_pairs(grid.teacher.kwargs), "--image-size", str(grid.teacher.size)),
        *(word for codec in codecs for word in ("--tap", f"{_TAP}:{codec}")),
        # What factor=RANK loses is what is measured.
        *("--tap", "head/logits", "--pixels", "raw", "--max-error", "1"),
        *("--views", str(grid.views), "--view-recipe", "rrc-flip"),
        *("--view-params", f"scale={list(grid.scale)}", "--batch-size", "250"),
        *("--statistics", "light", "--device", device, "--cpu-threads", str(grid.cpu_threads)),
    ]


def train_words(grid: Grid, row: Row, work: Path, out: Path, *, seed: int, test: str, device: str) -> list[str]:
    """``kdcache train`` for one row and seed."""
    student = grid.student if row.width is None else {**grid.student, "embed_dim": row.width}
    words = [
        *("train", "--cache", str(work / "cache"), "--out", str(out), "--student", STUDENT),
        *("--student-kwargs", *_pairs({k: v for k, v in student.items() if k not in ("img_size", "num_classes")})),
        *("--epochs", str(grid.epochs), "--batch-size", str(grid.batch_size), "--seed", str(seed)),
        *("--eval-data", test, "--device", device, *row.method),
        *("--set", f"optimizer.lr={grid.lr}", "--set", "scheduler.warmup_epochs=1"),
        *("--set", f"eval.every_epochs={grid.epochs}", "--set", "eval.crop_pct=1.0", "--set", "eval.batch_size=250"),
        *("--set", f"cpu_threads={grid.cpu_threads}"),
    ]
    if row.codec is not None:
        words += ["--codec", row.codec]
    if row.online:
        words += ["--teacher", "online", "--teacher-weights", str(work / "teacher.safetensors")]
    return words


def _pairs(kwargs: dict[str, Any]) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in kwargs.items()]


# What each row is compared with, seed by seed.
PAIRS = (
    ("logit", "none"),
    ("feature", "logit"),
    ("spectral", "logit"),
    ("logit + gram", "logit"),
    ("logit + token-similarity", "logit"),
    ("GAP + LayerNorm", "logit"),
    ("uniform width", "logit"),
    ("lift", "lift without tokens"),
    ("widelast", "widelast without tokens"),
    ("lift", "feature"),
    ("widelast", "feature"),
    ("widelast", "uniform width"),
    ("logit + gram", "feature"),
    ("logit + token-similarity", "feature"),
    ("lift", "logit + gram"),
    *((f"{method}, {codec}", method) for codec in SMALL_CODECS for method in ("feature", "lift")),
    ("lift, online", "lift"),
)


def uniform_width(grid: Grid) -> int:
    """Width of the plain student whose number of parameters is nearest to WideLast's; a multiple of its heads."""
    narrow, wide, heads = grid.student["embed_dim"], grid.teacher.kwargs["embed_dim"], grid.student["num_heads"]
    wanted = _num_parameters(grid.student, change=WideLastChange(width=wide))
    return min(
        range(narrow, wide + 1, heads),
        key=lambda width: abs(_num_parameters({**grid.student, "embed_dim": width}) - wanted),
    )


def _num_parameters(student: dict[str, Any], **change: Any) -> int:
    kwargs = {name: value for name, value in student.items() if name not in ("img_size", "num_classes")}
    return count_parameters(
        build_student(StudentSpec(name=STUDENT, num_classes=10, image_size=32, kwargs=kwargs, **change))
    )
