"""What does each token codec cost, and what does it lose?

Encodes features of a trained teacher with every registered codec that stores tokens: bytes a view, errors as caches
measure them, and the speed of encoding and decoding. Then the same features with one channel moved by +100 or +300, in
all tokens or in a tenth of them, as massive activations do. The features are those of the demo's teacher, trained here
unless its weights are given, and of caches that hold a column of fp32 or fp16 tokens.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import environment, spread, write
from kdcache.cache import open_cache
from kdcache.cache.codecs import Codec, make_codec, token_codecs
from kdcache.cache.fidelity import Fidelity
from kdcache.cache.record import Array
from kdcache.images import decode_image, open_source
from kdcache.models import TimmModel, parse_tap
from kdcache.recipes.digits_teacher import DigitsTeacher, train_digits_teacher
from kdcache.reports.tables import text_table
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.stream.targets import decode, field_dtype
from kdcache.teacher.model import Teacher
from kdcache.views import ViewRecipe, draw_view, replay_view

_TAP = "blocks.-1/patch"
_EXACT = ("fp32", "fp16")
_TIMED_BYTES = 2 << 20
_HEADINGS = ["codec", "bytes a view", "of fp16", "centred", "median", "worst", "energy kept", "flattened"]
_HEADINGS += ["encode GB/s", "decode GB/s", "torch GB/s", "dominated by"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--images", type=int, default=512, help="of every teacher (512)")
    parser.add_argument("--teacher-epochs", type=int, default=30, help="of the demo's teacher (30)")
    parser.add_argument("--teacher-weights", type=Path, help="of the demo's teacher, in place of training it")
    parser.add_argument("--cache", type=Path, action="append", default=[], help="also its tokens; may be repeated")
    parser.add_argument("--repeats", type=int, default=20, help="of every timing, codecs in turns (20)")
    parser.add_argument("--out", type=Path, help="JSON file; a table is written beside it")


def run(arguments: argparse.Namespace) -> int:
    """Measure."""
    torch.set_num_threads(1)
    features = {"digits": _digits_features(arguments)}
    for path in arguments.cache:
        features[path.name] = _cache_features(path, arguments.images)
    rows: list[dict[str, Any]] = []
    for name, values in features.items():
        codecs = token_codecs(values.shape[1:])
        speeds = _speeds(codecs, values, arguments.repeats)
        for outliers, changed in with_outliers(values).items():
            facts = {"features": name, "shape": values.shape, "outliers": outliers}
            rows += mark_dominated(
                [{**facts, "codec": text, **measure(codec, changed), **speeds[text]} for text, codec in codecs.items()]
            )
    for title, cells in _sections(rows):
        print(f"\n{title}\n\n{text_table(_HEADINGS, cells)}")
    if arguments.out is not None:
        result = {
            "benchmark": "codecs",
            **environment(torch.device("cpu")),
            "numpy": np.__version__,
            "load_average": os.getloadavg(),
            "rows": rows,
        }
        write(arguments.out, result)
        arguments.out.with_suffix(".md").write_text(_markdown(rows))
    return 0


def with_outliers(values: Array) -> dict[str, Array]:
    """The features (M, N, C) as they are, and with their middle channel moved in all or some tokens."""
    channel = values.shape[-1] // 2
    some = np.random.default_rng(0).random(values.shape[:2]) < 0.1
    found = {"none": values}
    for name, offset in {"+100": 100.0, "+300": 300.0, "+300 in a tenth of the tokens": 300.0 * some}.items():
        found[name] = values.copy()
        found[name][..., channel] += np.float32(offset)
    return found


def measure(codec: Codec, values: Array) -> dict[str, Any]:
    """Bytes a view, relative to fp16, and what the codec loses of these features (M, N, C)."""
    shape = values.shape[1:]
    fidelity = Fidelity()
    fidelity.update(values, codec.decode(codec.encode(values), shape))
    errors = fidelity.summary()
    sizes = [each.layout(shape).payload_bytes for each in (codec, make_codec("fp16"))]
    return {
        "bytes_a_view": sizes[0],
        "of_fp16": sizes[0] / sizes[1],
        "centred_energy_kept": 1 - errors["centred_error"] ** 2,
        **errors,
    }


def mark_dominated(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with the codec that is no larger and loses less, or as little in fewer bytes; None without one."""
    for row in rows:
        better = [each for each in rows if _is_better(each, row)]
        least = min(better, key=lambda each: each["centred_error"], default=None)
        row["dominated_by"] = None if least is None else least["codec"]
    return rows


def _is_better(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    mine, its = ((each["bytes_a_view"], each["centred_error"]) for each in (one, other))
    return mine != its and mine[0] <= its[0] and mine[1] <= its[1]


def _speeds(codecs: Mapping[str, Codec], values: Array, repeats: int) -> dict[str, dict[str, Any]]:
    """GB of float32 values a second of a core: encoded by numpy, decoded by numpy and by torch.

    Time of this thread, not of the clock: other work on the same cores counts less.
    """
    batch = values[: max(1, _TIMED_BYTES // values[0].nbytes)]
    rates: dict[str, dict[str, list[float]]] = {text: {} for text in codecs}
    work = {text: _work(codec, batch) for text, codec in codecs.items()}
    for turn in range(repeats + 1):
        for name, steps in work.items():
            for step, function in steps.items():
                began = time.thread_time()
                function()
                seconds = time.thread_time() - began
                if turn:  # the first warms up
                    rates[name].setdefault(step, []).append(batch.nbytes / seconds / 1e9)
    return {name: {step: spread(found) for step, found in steps.items()} for name, steps in rates.items()}


def _work(codec: Codec, batch: Array) -> dict[str, Callable[[], object]]:
    shape = batch.shape[1:]
    fields = codec.encode(batch)
    tensors = {
        field.name: torch.from_numpy(fields[field.name]).view(field_dtype(field, codec.packed))
        for field in codec.layout(shape).fields
    }
    return {
        "encode_gb_per_s": lambda: codec.encode(batch),
        "decode_gb_per_s": lambda: codec.decode(fields, shape),
        "torch_decode_gb_per_s": lambda: decode(tensors, codec, shape),
    }


def _digits_features(arguments: argparse.Namespace) -> Array:
    config = DigitsTeacher(epochs=arguments.teacher_epochs)
    with tempfile.TemporaryDirectory() as scratch:
        weights = arguments.teacher_weights or Path(scratch) / "teacher.safetensors"
        if arguments.teacher_weights is None:
            print(f"teacher of the digits: top-1 {train_digits_teacher(weights, config):.1f} %", flush=True)
        teacher = Teacher(
            TimmModel(config.name, config.kwargs), str(weights), image_size=None, seed=0,
            device=torch.device("cpu"), precision="fp32", cpu_threads=1,
        )  # fmt: skip
    [facts] = teacher.set_taps([parse_tap(_TAP)])
    source = open_source("digits:train")
    recipe = ViewRecipe(name="rrc-flip", size=config.size, scale=config.scale, flip=0.0)
    pixels: list[Array] = []
    for position, each in enumerate(source.images[: arguments.images]):
        image = decode_image(source.read(position)).rgb
        drawn = draw_view(recipe, seed=0, key=each.key, view=0, width=image.width, height=image.height)
        pixels.append(replay_view(image, drawn, size=recipe.size, interpolation="bicubic"))
    return teacher.run(np.stack(pixels))[str(facts.tap)]


def _cache_features(path: Path, num_images: int) -> Array:
    cache = open_cache(path)
    columns = [each for each in cache.columns if each.kind == "patch" and each.codec in _EXACT]
    if not columns:
        raise ValueError(f"{path}: no column of patch tokens in {' or '.join(_EXACT)}; extract one with --codec fp16")
    column = columns[0]
    config = StreamConfig(batch_size=1, images="none", shuffle=False, num_threads=1)
    tokens = (batch.targets[column.name].decode().numpy()[0] for batch in CacheLoader(cache, [column], config))
    return np.stack([each.copy() for each in islice(tokens, num_images)])


def _sections(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[list[str]]]]:
    """For all features and outliers a title, and cells of the codecs, the largest first."""
    for features, outliers in dict.fromkeys((row["features"], row["outliers"]) for row in rows):
        own = [row for row in rows if (row["features"], row["outliers"]) == (features, outliers)]
        _, tokens, channels = own[0]["shape"]
        title = f"{features}, {tokens} tokens of {channels} channels, outliers: {outliers}"
        yield title, [_cells(row) for row in sorted(own, key=lambda row: -row["bytes_a_view"])]


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["# Codecs", ""]
    for title, cells in _sections(rows):
        table = [_HEADINGS, ["---", *["--:"] * (len(_HEADINGS) - 1)], *cells]
        lines += [f"{title}:", "", *(f"| {' | '.join(row)} |" for row in table), ""]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    errors = ("centred_error", "median_channel_error", "worst_channel_error")
    speeds = ("encode_gb_per_s", "decode_gb_per_s", "torch_decode_gb_per_s")
    return [
        row["codec"],
        f"{row['bytes_a_view']:,}",
        f"{row['of_fp16']:.1%}",
        *(f"{row[name]:.4f}" for name in errors),
        f"{row['centred_energy_kept']:.2%}",
        f"{row['relative_error']:.4f}",
        *(f"{row[name]['median']:.2f}" for name in speeds),
        row["dominated_by"] or "",
    ]
