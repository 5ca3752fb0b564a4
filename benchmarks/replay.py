"""How fast pixels reach a batch, features included: views replayed by every decoder, stored as JPEG, stored raw."""

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmarks.record import environment, spread, write
from benchmarks.synthetic_cache import NORMALIZATION, SyntheticCache, write_cache
from kdcache.cache import Cache, open_cache
from kdcache.costs.memcpy import Memcpy
from kdcache.images import decode_pixels, decoder_versions, jpeg
from kdcache.reports.tables import text_table
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.views import ViewParams, ViewRecipe, draw_view, replay_view, resample

_MADE_UP = 64
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Images, and the views that are cut from them.

    Args:
        files: Glob pattern of tars below the shared data; images are made up where there are none.
        view_size: S, pixels.
        made_up: Width and height of a made-up image.
        num_images: At most so many.
        batch_size: Views in a batch.
    """

    files: str
    view_size: int
    made_up: tuple[int, int]
    num_images: int
    batch_size: int


WORKLOADS: dict[str, Workload] = {
    "CIFAR-10, 32 px": Workload(
        files="cifar10/train-000.tar.gz", view_size=32, made_up=(32, 32), num_images=4096, batch_size=512
    ),
    "ImageNet, 224 px": Workload(
        files="imagenet-sample/*.tar", view_size=224, made_up=(500, 375), num_images=200, batch_size=50
    ),
}


@contextmanager
def _through_pillow(*, views: bool) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(jpeg, "can_decode", lambda: False))
        if views:
            stack.enter_context(mock.patch.object(resample, "pass_order", lambda interpolation: None))
        yield


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to the pixels of a batch.

    Args:
        pixels: What the cache stores: replay (nothing), raw or jpeg.
        recipe: Of the views.
        switched: What must be switched while it runs.
    """

    pixels: str = "replay"
    recipe: str = "rrc-flip"
    switched: Callable[[], AbstractContextManager[None]] = nullcontext


WAYS: Mapping[str, Way] = {
    "replay, Pillow": Way(switched=lambda: _through_pillow(views=True)),
    "replay, Pillow, views by an extension": Way(switched=lambda: _through_pillow(views=False)),
    "replay, files and views by extensions": Way(),
    "the same, views of the recipe deit": Way(recipe="deit"),
    "stored JPEG": Way(pixels="jpeg"),
    "stored raw": Way(pixels="raw"),
}
_REFERENCE = "replay, files and views by extensions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    help_ = "folder with cifar10/ and imagenet-sample/, see README (../shared/data; without it made-up images)"
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help=help_)
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="which images (all)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.5, help="at least so long for each repeat (0.5)")
    parser.add_argument("--toy", action="store_true", help="few small made-up images: does it run?")
    parser.add_argument("--out", type=Path, help="JSON file")


def run(arguments: argparse.Namespace) -> int:
    """Measure."""
    rows: list[dict[str, Any]] = []
    for name in arguments.workload:
        workload = WORKLOADS[name]
        if arguments.toy:
            workload = replace(workload, files="", num_images=16, batch_size=8)
        with tempfile.TemporaryDirectory() as folder:
            images = _images(workload, arguments.data)
            caches: dict[tuple[str, str], Cache] = {}
            for pixels, recipe in dict.fromkeys((way.pixels, way.recipe) for way in WAYS.values()):
                path = Path(folder) / f"{pixels}-{recipe}"
                _write(workload, images, path, pixels, recipe)
                caches[pixels, recipe] = open_cache(path)
            rows += _measure(name, workload, caches, arguments)
    result = {
        "benchmark": "replay",
        **environment(torch.device("cpu")),
        "decoders": decoder_versions(),
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "rows": rows,
    }
    parts = ("median", "p20", "p80")
    table = [
        [row["workload"], row["way"], str(row["threads"]), *(f"{row['views_per_s'][part]:,.0f}" for part in parts),
         *(f"{row[ratio]['median']:.2f}" for ratio in ("over_one_thread", "over_replay", "over_memcpy"))]
        for row in rows
    ]  # fmt: skip
    print(
        text_table(["images", "way", "threads", "views/s", "p20", "p80", "x one thread", "x replay", "x memcpy"], table)
    )
    if arguments.out is not None:
        write(arguments.out, result)
    return 0


def _measure(
    name: str, workload: Workload, caches: Mapping[tuple[str, str], Cache], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """All ways and thread counts in turns, so that what else the machine does falls on all alike."""
    threads: list[int] = arguments.threads
    cases = [(way, count) for way in WAYS for count in threads]
    loaders = {
        (way, count): _loader(caches[WAYS[way].pixels, WAYS[way].recipe], workload, count) for way, count in cases
    }
    view_bytes = _view_bytes(loaders[cases[0]])
    memcpy = Memcpy(view_bytes * workload.batch_size, loaders[cases[0]].config.num_buffers)
    rates: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    copies: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for repeat in range(arguments.repeats + 1):
        for case in cases:
            before = memcpy.bytes_per_s(arguments.seconds / 8)
            with WAYS[case[0]].switched():
                rate = _views_per_s(loaders[case], arguments.seconds)
            if repeat:  # the first warms up
                rates[case].append(rate)
                copies[case].append((before + memcpy.bytes_per_s(arguments.seconds / 8)) / 2 / view_bytes)
    rows: list[dict[str, Any]] = []
    for (way, count), measured in rates.items():
        num_images = caches[WAYS[way].pixels, WAYS[way].recipe].manifest.num_samples
        facts = {"workload": name, "way": way, "threads": count, "num_images": num_images}
        others = {
            "over_one_thread": rates[way, threads[0]],
            "over_replay": rates[_REFERENCE, count],
            "over_memcpy": copies[way, count],
        }
        ratios = {
            ratio: spread([rate / one for rate, one in zip(measured, other, strict=True)])
            for ratio, other in others.items()
        }
        rows.append({**facts, "views_per_s": spread(measured), **ratios})
    return rows


def _view_bytes(loader: CacheLoader) -> int:
    """What is delivered of a view: its pixels, its features and its numbers."""
    batch = next(iter(loader))
    return sum(tensor.nbytes for tensor in batch.tensors()) // len(batch)


def _loader(cache: Cache, workload: Workload, threads: int) -> CacheLoader:
    config = StreamConfig(batch_size=workload.batch_size, num_threads=threads, images="pixels")
    return CacheLoader(cache, cache.columns, config)


def _views_per_s(loader: CacheLoader, seconds: float) -> float:
    """Whole epochs until the time is over."""
    views, spent, started = 0, 0.0, time.perf_counter()
    while spent < seconds:
        views += sum(len(batch) for batch in loader)
        spent = time.perf_counter() - started
    return views / spent


def _images(workload: Workload, data: Path) -> list[bytes]:
    files: list[bytes] = []
    for path in sorted(data.glob(workload.files)) if workload.files else ():
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg") and (file := tar.extractfile(member)) is not None:
                    files.append(file.read())
                if len(files) == workload.num_images:
                    return files
    random = np.random.default_rng(0)
    width, height = workload.made_up
    while len(files) < min(workload.num_images, _MADE_UP):
        small = Image.fromarray(random.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
        buffer = io.BytesIO()
        small.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def _write(workload: Workload, images: list[bytes], folder: Path, pixels: str, recipe: str) -> None:
    of_views = ViewRecipe(name=recipe, size=workload.view_size)

    def view(number: int) -> np.ndarray:
        height, width = decode_pixels(images[number]).shape[:2]
        drawn = draw_view(of_views, seed=0, key=f"{number}", view=0, width=width, height=height)
        return np.array(drawn.as_integers(), np.int32)

    def replay(data: bytes, integers: np.ndarray) -> np.ndarray:
        params = ViewParams(*integers.tolist())
        settings: dict[str, Any] = {"interpolation": "bicubic", "mean": NORMALIZATION, "std": NORMALIZATION}
        return replay_view(decode_pixels(data), params, size=workload.view_size, **settings)

    features = np.random.default_rng(0).standard_normal((64, 192), np.float32)
    synthetic = SyntheticCache(
        num_records=len(images), shape=(64, 192), codec="fp16", features=lambda number: features,
        shard_samples=1000, label=lambda number: number % 10, image=images.__getitem__, view=view, replay=replay,
        view_size=workload.view_size, pixels=pixels,
    )  # fmt: skip
    write_cache(synthetic, folder)
