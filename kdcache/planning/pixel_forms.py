"""Where students take a view's pixels from, cut again from the images or stored: what each way takes here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.costs.streaming import stream_rate
from kdcache.images import Source
from kdcache.planning.rehearsal import rehearsal_pass
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.teacher.config import ExtractConfig

REPLAY, JPEG, RAW = "replay", "jpeg", "raw"
# Batches in an epoch of the small cache while reading is timed.
_BATCHES = 4


@dataclass(frozen=True)
class PixelForm:
    """One of the three.

    Args:
        name: What ExtractConfig takes as `pixels`.
        bytes_per_view: That it stores; the images that replay reads are not counted.
        read_s: Seconds to read, decode and cut the pixels of a view, on all cores.
    """

    name: str
    bytes_per_view: float
    read_s: float


def measure_pixel_forms(
    config: ExtractConfig, folder: Path, *, cache: Cache, replay_s: float, seconds: float
) -> list[PixelForm]:
    """Store the same views as JPEG and raw, and read them.

    Args:
        config: The pass that is planned.
        folder: Where the small caches are made.
        cache: A small one of that pass, whose images are taken.
        replay_s: Seconds a view to replay, measured on it.
        seconds: About how long each reading shall take.
    """
    jpeg = config.pixels if config.pixels.startswith(JPEG) else JPEG
    return [
        PixelForm(REPLAY, 0.0, replay_s),
        *(_stored(config, folder / name, name, cache, seconds) for name in (jpeg, RAW)),
    ]


def smallest_that_keeps_up(forms: Sequence[PixelForm], step_s: float) -> PixelForm:
    """The first that is read in the time of a student's step, a view; the fastest where none is.

    Args:
        forms: From the smallest to the largest.
        step_s: Seconds a view.
    """
    return next((form for form in forms if form.read_s <= step_s), min(forms, key=lambda form: form.read_s))


def read_seconds(cache: Cache, columns: list[Column], pixels: Any, source: Source | None, seconds: float) -> float:
    """Seconds a view to read columns and pixels of a small cache, shuffled, from memory.

    Args:
        cache: The cache.
        columns: Of it; none for pixels alone.
        pixels: As in StreamConfig.
        source: The images, for a cache that refers to them.
        seconds: About how long to read.
    """
    size = max(1, cache.manifest.num_samples // _BATCHES)
    loader = CacheLoader(cache, columns, StreamConfig(batch_size=size, pixels=pixels), source=source)
    for _ in loader:  # opens and hashes files
        pass
    return 1 / stream_rate(loader, seconds / 2).samples_per_s


def _stored(config: ExtractConfig, out: Path, form: str, cache: Cache, seconds: float) -> PixelForm:
    # What a view's pixels take depends on no teacher, so the smallest ViT that takes their size makes this cache.
    views = cache.manifest.fingerprint.views
    size = views.size
    small = replace(
        config,
        teacher="vit_tiny_patch16_224",
        teacher_settings={},
        teacher_kwargs={"img_size": size, "patch_size": size, "embed_dim": 8, "depth": 1, "num_heads": 1},
        image_size=size,
        interpolation=views.interpolation,
        view_params=views.params,
        taps=("blocks.-1/patch",),
        group=None,
        codec="fp16",
        pixels=form,
        images="reference",
        statistics="light",
    )
    stored = rehearsal_pass(small, out, cache.manifest.num_samples).cache
    column = stored.pixel_column
    assert column is not None, "the pass stored pixels"
    bytes_per_view = stored.groups[column.group].manifest.part_bytes(column.facts.name) / stored.manifest.num_records
    return PixelForm(form, bytes_per_view, read_seconds(stored, [], "stored", None, seconds))
