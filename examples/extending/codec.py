"""Add a codec: python examples/extending/codec.py FOLDER, which extracts, streams and decodes it.

Inside the repository the class alone, in a file of kdcache/cache/codecs, is enough: it is found by being there.
"""

import sys
from pathlib import Path

import numpy as np

import kdcache
from kdcache.cache.codecs import Codec, Packed
from kdcache.cache.record import Array, RecordLayout


class MinMax8(Codec):
    """Unsigned bytes between the smallest and the largest value of each token."""

    name = "minmax8"
    # value = values * scale + low: the stream, the fused losses and `decode` read this, and never the codec's name.
    packed = Packed(values="values", scale="scale", shift="low")
    for_logits = False

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        """What a record of (N, C) values holds on disk."""
        tokens = shape[:-1]
        return RecordLayout.structured({"values": ("|u1", shape), "scale": ("<f4", tokens), "low": ("<f4", tokens)})

    def encode(self, values: Array) -> dict[str, Array]:
        """Fields of a batch of float32 values (B, N, C)."""
        low = values.min(axis=-1)
        scale = ((values.max(axis=-1) - low) / np.float32(255)).astype("<f4")
        steps = np.rint((values - low[..., None]) / np.where(scale > 0, scale, 1)[..., None])
        return {"values": np.clip(steps, 0, 255).astype("u1"), "scale": scale, "low": low.astype("<f4")}


def main(folder: str) -> None:
    """Extract the digits with it, then stream what was written."""
    kdcache.extract(
        kdcache.ExtractConfig(
            out=Path(folder),
            data="digits:train",
            limit=64,
            teacher="vit_tiny_patch16_224",
            teacher_weights="random",
            teacher_kwargs={"img_size": 16, "patch_size": 4, "depth": 2, "num_classes": 10},
            taps=("blocks.-1/patch:minmax8", "blocks.-1/patch:fp32"),
        )
    )
    cache = kdcache.open_cache(folder)
    packed, exact = (cache.find_column(kind="patch", codec=codec) for codec in ("minmax8", "fp32"))
    loader = kdcache.CacheLoader(cache, [packed, exact], kdcache.StreamConfig(batch_size=16))
    batch = next(iter(loader))
    decoded, wanted = (batch.targets[column.name].decode() for column in (packed, exact))
    error = (decoded - wanted).norm() / wanted.norm()
    print(f"{packed.name}: {packed.stride_bytes} bytes a view, relative error {error:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
