import numpy as np
import pytest
import torch
from kdcache_kernels import dequantize

from kdcache.cache import Cache
from kdcache.stream.batch import BatchBuffers
from kdcache.stream.targets import PackedTargets


def packed(cache: Cache, kind: str, codec: str, tap: str | None = None) -> tuple[PackedTargets, np.ndarray]:
    """One shard's records, packed in tensors, and decoded by numpy."""
    column = cache.find_column(kind=kind, codec=codec, tap=tap)
    shard = cache.manifest.shards[0]
    fields = cache.strided(column, shard).fields()
    count = len(next(iter(fields.values())))
    buffers = BatchBuffers(count, [column], cache.manifest.fingerprint.views, pinned=False)
    for field, buffer in zip(column.layout().fields, buffers.fields[column.name], strict=True):
        buffer[:] = np.ascontiguousarray(fields[field.name]).reshape(count, -1).view(np.uint8)
    return buffers.batch.targets[column.name], column.make_codec().decode(fields, tuple(column.shape))


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("patch", "fp16"),
        ("patch", "int8"),
        ("patch", "bf16"),
        ("prefix", "fp32"),
        ("logits", "fp16"),
        ("logits", "topk"),
    ],
)
def test_torch_decodes_what_numpy_decodes(tiny_cache: Cache, kind: str, codec: str) -> None:
    targets, expected = packed(tiny_cache, kind, codec)
    np.testing.assert_array_equal(targets.decode().numpy(), expected)


def test_rows_and_moves_keep_the_bits(tiny_cache: Cache) -> None:
    targets, expected = packed(tiny_cache, "patch", "int8")
    np.testing.assert_array_equal(targets.rows(slice(3, 7)).decode().numpy(), expected[3:7])
    assert targets.to(torch.device("cpu")).fields["values"].dtype == torch.int8


@pytest.mark.parametrize("codec", ["fp16", "bf16", "int8"])
def test_the_payload_is_what_the_fused_losses_take(tiny_cache: Cache, codec: str) -> None:
    targets, expected = packed(tiny_cache, "patch", codec)
    np.testing.assert_array_equal(dequantize(*targets.payload()).numpy(), expected)


def test_sparse_logits_are_no_payload(tiny_cache: Cache) -> None:
    targets, _ = packed(tiny_cache, "logits", "topk")
    with pytest.raises(ValueError, match=r"head-logits-topk3: codec topk keeps .* decode them first"):
        targets.payload()
