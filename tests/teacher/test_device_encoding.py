from typing import Any

import numpy as np
import pytest
import torch

from kdcache.cache.facts import ColumnFacts, ColumnKind
from kdcache.cache.statistics import Fidelity
from kdcache.cache.token_sums import TokenSums, sum_tokens
from kdcache.teacher.device_encoding import DeviceEncoder, can_encode_on_device

SHAPE = (7, 24)


def column(codec: str, shape: tuple[int, ...] = SHAPE, kind: ColumnKind = "patch") -> ColumnFacts:
    return ColumnFacts(
        name="c", tap="blocks.1/patch", kind=kind, codec=codec, params={"k": 3} if codec == "topk" else {},
        shape=list(shape), grid=[], stride_bytes=0,
    )  # fmt: skip


@pytest.fixture
def values(random: np.random.Generator) -> np.ndarray:
    """Channels of other scales, one far from zero, and a token of zeros."""
    made = random.standard_normal((5, *SHAPE)) * np.geomspace(0.1, 10, SHAPE[1])
    made[..., 3] += 1000
    made[2, 4] = 0
    return made.astype(np.float32)


def on_host(facts: ColumnFacts, values: np.ndarray, *, with_moments: bool) -> tuple[np.ndarray, TokenSums, Fidelity]:
    codec, fidelity = facts.make_codec(), Fidelity()
    fields = codec.encode(values)
    decoded = codec.decode(fields, tuple(facts.shape))
    fidelity.update(values, decoded)
    return facts.layout().pack(fields), sum_tokens(decoded, with_moments=with_moments), fidelity


@pytest.mark.parametrize("with_moments", [True, False])
@pytest.mark.parametrize("codec", ["fp32", "fp16", "bf16", "int8"])
def test_a_device_gives_what_the_writer_computes(codec: str, with_moments: bool, values: np.ndarray) -> None:
    facts = column(codec)
    payload, sums, fidelity = on_host(facts, values, with_moments=with_moments)
    found = DeviceEncoder(facts, with_moments=with_moments).start(torch.from_numpy(values)).finish()
    assert found is not None
    np.testing.assert_array_equal(found.payload, payload)
    for name, wanted in vars(sums).items():
        # As close as float32 products of values of the largest size allow.
        atol = 1e-6 * np.abs(wanted).max() if np.size(wanted) else 0
        np.testing.assert_allclose(getattr(found.sums, name), wanted, rtol=2e-6, atol=atol, err_msg=name)
    np.testing.assert_allclose(found.fidelity.as_array(), fidelity.as_array(), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, 1e-25], ids=str)
def test_what_must_be_looked_at_goes_to_the_writer(bad: float, values: np.ndarray) -> None:
    """Values that are not finite, and those whose squares leave float32's range."""
    values[1, 2] = bad
    assert DeviceEncoder(column("fp32"), with_moments=True).start(torch.from_numpy(values)).finish() is None


def test_values_that_the_codec_cannot_hold_go_to_the_writer(values: np.ndarray) -> None:
    values[0, 0, 0] = 1e6
    encoder = DeviceEncoder(column("fp16"), with_moments=False)
    assert encoder.start(torch.from_numpy(values)).finish() is None


@pytest.mark.parametrize(
    ("settings", "can"),
    [
        ({"codec": "int8"}, True),
        ({"codec": "fp16", "kind": "prefix", "shape": (1, 24)}, True),
        ({"codec": "fp32", "kind": "logits", "shape": (10,)}, False),
        ({"codec": "topk", "kind": "logits", "shape": (10,)}, False),
        ({"codec": "raw", "kind": "pixels", "shape": (16, 16, 3)}, False),
    ],
    ids=str,
)
def test_which_columns_a_device_can_encode(settings: dict[str, Any], can: bool) -> None:
    assert can_encode_on_device(column(**settings)) == can
