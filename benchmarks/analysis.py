"""How long does each analysis of a cache take, and in how much memory?

Writes a cache of made-up features, runs `kdcache analyze --images all` on it in a process of its own, and takes the
seconds it reports and the most memory it ever had. Beside it the published scripts' way on some of the same images,
interleaved: one SVD an image, one histogram a token.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.record import environment, spread, write
from benchmarks.synthetic_cache import SyntheticCache, write_cache
from kdcache.analysis.dynamics import NUM_ENTROPY_BINS, channel_entropy
from kdcache.analysis.folder import RESULT
from kdcache.analysis.svd_rank import RANK_LEVELS, dims_at, image_energies
from kdcache.cache.record import Array
from kdcache.reports.tables import text_table

_ANALYZE = """
import sys
from pathlib import Path
from kdcache.cli.main import main
code = main(sys.argv[1:])
lines = Path("/proc/self/status").read_text().splitlines()
print("peak_kib", next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
sys.exit(code)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--tokens", type=int, default=64, help="a square number (64)")
    parser.add_argument("--channels", type=int, default=192)
    parser.add_argument("--codec", default="fp16")
    parser.add_argument("--beside", type=int, default=64, help="images of one turn of the comparison (64)")
    parser.add_argument("--repeats", type=int, default=20, help="turns of the comparison (20)")
    parser.add_argument("--scratch", type=Path, help="folder for the cache; kept if given (a temporary one)")
    parser.add_argument("--out", type=Path, help="JSON file")


def run(arguments: argparse.Namespace) -> int:
    """Measure."""
    with tempfile.TemporaryDirectory() as temporary:
        scratch = arguments.scratch or Path(temporary)
        cache = scratch / f"analysis-{arguments.images}-{arguments.tokens}-{arguments.channels}-{arguments.codec}"
        if not (cache / "manifest.json").is_file():
            write_cache(_synthetic(arguments), cache)
        began = time.perf_counter()
        peak_bytes = _analyze(cache, Path(temporary) / "out")
        whole_s = time.perf_counter() - began
        seconds = json.loads((Path(temporary) / "out" / RESULT).read_bytes())["seconds"]
    beside = _beside(arguments)
    result = {
        "benchmark": "analysis",
        **environment(torch.device("cpu")),
        "settings": {name: getattr(arguments, name) for name in ("images", "tokens", "channels", "codec", "beside")},
        "whole_s": whole_s,
        "peak_bytes": peak_bytes,
        "seconds": seconds,
        "images_per_s_of_published_way": beside,
    }
    _print(arguments, result)
    if arguments.out is not None:
        write(arguments.out, result)
    return 0


def features(number: int, num_tokens: int, num_channels: int) -> Array:
    """Made-up tokens with a falling spectrum and an image's own directions; (N, C) float32."""
    random = np.random.default_rng(number)
    strengths = np.geomspace(1, 0.01, num_channels, dtype=np.float32)
    tokens = random.standard_normal((num_tokens, num_channels), np.float32) * strengths
    return tokens[:, random.permutation(num_channels)]


def _synthetic(arguments: argparse.Namespace) -> SyntheticCache:
    side = round(arguments.tokens**0.5)
    return SyntheticCache(
        num_records=arguments.images,
        shape=(arguments.tokens, arguments.channels),
        codec=arguments.codec,
        features=lambda number: features(number, arguments.tokens, arguments.channels),
        grid=(side, side),
        statistics="full",
        shard_samples=512,
    )


def _analyze(cache: Path, out: Path) -> int:
    words = ["analyze", str(cache), "--images", "all", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", _ANALYZE, *words], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.rsplit("peak_kib ", 1)[1]) * 1024


def _beside(arguments: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    batch = np.stack([features(number, arguments.tokens, arguments.channels) for number in range(arguments.beside)])
    tokens = torch.from_numpy(batch)
    low, high = float(batch.min()), float(batch.max())
    ways: dict[str, dict[str, Callable[[], object]]] = {
        "ranks of each image": {
            "kdcache": lambda: dims_at(image_energies(tokens)),
            "published way": lambda: [_dims_by_svd(image) for image in batch],
        },
        "entropy": {
            "kdcache": lambda: channel_entropy(tokens, low, high).mean(),
            "published way": lambda: [
                _entropy_by_histogram(token, low, high) for token in batch.reshape(-1, batch.shape[-1])
            ],
        },
    }
    rates: dict[str, dict[str, list[float]]] = {name: {way: [] for way in both} for name, both in ways.items()}
    for turn in range(arguments.repeats + 1):
        for name, both in ways.items():
            for way, work in both.items():
                began = time.perf_counter()
                work()
                if turn:  # the first warms up
                    rates[name][way].append(len(batch) / (time.perf_counter() - began))
    return {name: {way: spread(values) for way, values in both.items()} for name, both in rates.items()}


def _dims_by_svd(image: Array) -> list[int]:
    energies = np.linalg.svd(image, compute_uv=False) ** 2
    shares = energies.cumsum() / energies.sum()
    return [int(np.argmax(shares >= level / 100)) + 1 for level in RANK_LEVELS]


def _entropy_by_histogram(token: Array, low: float, high: float) -> float:
    shares = np.histogram(token, bins=NUM_ENTROPY_BINS, range=(low, high))[0] / len(token)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def _print(arguments: argparse.Namespace, result: dict) -> None:
    rows = [
        [name, f"{value:.1f}", f"{arguments.images / value:,.0f}"] for name, value in result["seconds"].items() if value
    ]
    rows.append(["whole command", f"{result['whole_s']:.1f}", f"{arguments.images / result['whole_s']:,.0f}"])
    print(text_table(["analysis", "seconds", "images/s"], rows))
    print(f"peak memory {result['peak_bytes'] / 2**30:.2f} GiB")
    for name, both in result["images_per_s_of_published_way"].items():
        ours, theirs = both["kdcache"]["median"], both["published way"]["median"]
        print(f"{name}: {ours:,.0f} images/s, one by one {theirs:,.0f}: {ours / theirs:.1f} times")
