"""How fast a cache streams on this machine, relative to its memcpy, and whether training would wait for it."""

import argparse
from typing import TYPE_CHECKING, Any

from kdcache.cli.data_flags import add_data
from kdcache.cli.places import PLACE_HELP, place
from kdcache.cli.text import counted, print_json, size_text
from kdcache.errors import UsageError
from kdcache.remote.url import Location

if TYPE_CHECKING:
    from kdcache.cache.cache import Cache
    from kdcache.cache.column import Column

USAGE = "CACHE [options]"
EXAMPLE = """examples:
  kdcache bench caches/inet --shuffle
  kdcache bench caches/inet --shuffle --images none --column blocks-1-patch-fp16 --json"""

_PIXELS = {"raw": "raw pixels", "jpeg": "stored JPEG decoded", "replay": "views replayed from the images"}
# Stored pixels cost disk; a smaller gain is not worth the advice.
_WORTH_SAYING = 1.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("cache", type=place, metavar="CACHE", help=f"the cache: a {PLACE_HELP}")
    parser.add_argument("--shuffle", action="store_true", help="in the order of training (default: the cache's order)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    stream = parser.add_argument_group("what is streamed")
    stream.add_argument("--column", action="append", metavar="NAME", help="a column; again for more (default: all)")
    stream.add_argument("--images", choices=("pixels", "encoded", "none"), help="decoded, as files, or not (pixels)")
    stream.add_argument("--group", metavar="NAME", help="the columns of this group (default: of all)")
    stream.add_argument(
        "--pixels",
        choices=("auto", "stored", "replay"),
        default="auto",
        help="stored views, or replayed from the images (auto: stored if there are any)",
    )
    add_data(stream, "--data", help="the source, for a cache that refers to its images")
    stream.add_argument("--batch-size", type=int, default=256, metavar="B", help="views in a batch (256)")
    stream.add_argument("--views-per-sample", type=int, default=1, metavar="V", help="views of an image in a batch (1)")
    how = parser.add_argument_group("how")
    how.add_argument("--threads", type=int, metavar="N", help="threads that read and decode (the cores, at most 8)")
    how.add_argument("--window", type=int, default=16, metavar="W", help="shards that are mixed with each other (16)")
    how.add_argument(
        "--access",
        choices=("auto", "map", "read"),
        default="auto",
        help="copy out of memory maps, or read (auto: map if it can)",
    )
    how.add_argument("--memory-budget", type=float, metavar="GB", help="for batches and maps (a quarter of the memory)")
    how.add_argument("--step-ms", type=float, default=50.0, metavar="T", help="a training step, for the stalls (50)")
    how.add_argument("--seconds", type=float, default=3.0, metavar="S", help="for each measurement (3)")


def run(arguments: argparse.Namespace) -> int:
    """Measure."""
    from kdcache.cache.cache import open_cache
    from kdcache.costs.streaming import bench_stream
    from kdcache.images import open_again
    from kdcache.stream.config import StreamConfig
    from kdcache.stream.pixels import can_deliver_pixels

    if arguments.step_ms <= 0 or arguments.seconds <= 0:
        raise UsageError("--step-ms and --seconds must be positive")
    cache = open_cache(arguments.cache)
    source = open_again(arguments.data, cache.manifest.fingerprint.source.rules)
    images = arguments.images
    if images is None:
        has_pixels = can_deliver_pixels(cache, arguments.pixels, has_source=source is not None)
        images = "pixels" if has_pixels else "none"
    try:
        config = StreamConfig(
            batch_size=min(arguments.batch_size, cache.manifest.num_samples * arguments.views_per_sample),
            shuffle=arguments.shuffle,
            window=arguments.window,
            views_per_sample=arguments.views_per_sample,
            images=images,
            pixels=arguments.pixels,
            num_threads=arguments.threads,
            access=arguments.access,
            memory_budget=None if arguments.memory_budget is None else int(arguments.memory_budget * 1e9),
        )
        # What no loader could stream is the user's mistake and is reported before anything is measured.
        config.order([shard.num_samples for shard in cache.manifest.shards], cache.num_views)
    except (ValueError, OverflowError) as error:
        raise UsageError(str(error)) from None
    columns = _columns(cache, arguments.group, arguments.column)
    result = bench_stream(cache, columns, config, source=source, seconds=arguments.seconds, step_ms=arguments.step_ms)
    if arguments.json:
        print_json({"cache": str(arguments.cache), **result})
    else:
        _print(arguments.cache, result)
    return 0


def _columns(cache: "Cache", group: str | None, names: list[str] | None) -> "list[Column]":
    if names is not None and group is not None:
        raise UsageError("give --group or --column, not both")
    if names is not None:
        return [cache.column(name) for name in names]
    columns = cache.columns if group is None else cache.group(group).columns
    return [column for column in columns if column.kind != "pixels"]


def _print(root: Location, result: dict[str, Any]) -> None:
    order = result["order"]
    how = "shuffled" if result["shuffle"] else "in order"
    images = {"encoded": "images as files", "none": "no images"}.get(result["images"]) or _PIXELS[result["pixels"]]
    print(f"{root}: {how}, batches of {result['batch_size']}, {images}, {counted(result['threads'], 'thread')}")
    print(
        f"stream    {result['samples_per_s']:,.0f} samples/s, {result['gb_per_s']:.3g} GB/s, "
        f"{result['ratio_to_memcpy']:.2f} of memcpy ({result['memcpy_gb_per_s']:.3g} GB/s)"
    )
    print(f"gather    {result['gather']}" + (f": {result['memory_note']}" if result["memory_note"] else ""))
    alone = ", ".join(f"{name} {rate:,.0f}" for name, rate in result["stages_samples_per_s"].items())
    print(f"stages    alone, samples/s: {alone}; limited by {result['limited_by']}")
    advice = _advice(root, result["raw_pixels"])
    if advice is not None:
        print(advice)
    whole = result["first_epoch_s"]
    epoch = "left unfinished" if whole is None else f"{whole:.3g} s"
    print(f"start     first batch {result['first_batch_s']:.3g} s, first epoch {epoch}")
    print(f"stall     {result['stall_share']:.1%} of the time with a step of {result['step_ms']:g} ms")
    if result["shuffle"]:
        print(
            f"order     {counted(order['shards'], 'shard')} in windows of {order['window']}: rank correlation with "
            f"the source {order['correlation_with_source']:+.3f}, of two epochs {order['correlation_of_epochs']:+.3f}"
        )


def _advice(root: Location, raw: dict[str, Any] | None) -> str | None:
    """What raw pixels would bring; None where they are stored or the gain is small."""
    if raw is None or raw["times_as_fast"] <= _WORTH_SAYING:
        return None
    return (
        f"pixels    raw ones would come some {raw['times_as_fast']:.0f} times as fast, about "
        f"{raw['samples_per_s']:,.0f} samples/s, for {size_text(int(raw['bytes']))} of disk: `kdcache extract "
        f"--add --pixels raw --out {root}`"
    )
