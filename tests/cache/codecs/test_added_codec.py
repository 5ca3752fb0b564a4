"""A codec is one class in one file: four new ones, extracted, streamed and learnt from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdcache.cache import Cache, open_cache
from kdcache.cache.codecs import Codec, Packed, SparseLogits
from kdcache.cache.record import Array, RecordLayout
from kdcache.cache.verify import verify_group_shard
from kdcache.losses import feature_loss, top_k_logit_kd
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.teacher.extract import extract
from kdcache.terms.base import TokenShape
from kdcache.terms.logits import Logits
from kdcache.terms.tokens import Tokens
from tests.cache.codecs.conformance import Case, Conformance
from tests.conftest import GROUP, tiny_extract
from tests.methods.support import modules_of, one_batch, student_outputs, value_of


class Scaled16(Codec):
    """Signed 16-bit integers with one scale a token."""

    name = "scaled16"
    packed = Packed(values="steps", scale="step")
    for_logits = False

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        return RecordLayout.structured({"steps": ("<i2", shape), "step": ("<f4", shape[:-1])})

    def encode(self, values: Array) -> dict[str, Array]:
        step = (np.abs(values).max(axis=-1) / np.float32(32767)).astype("<f4")
        steps = np.rint(values / np.where(step > 0, step, 1)[..., None])
        return {"steps": np.clip(steps, -32767, 32767).astype("<i2"), "step": step}


class Offset8(Codec):
    """Unsigned bytes between the smallest and the largest value of each token."""

    name = "offset8"
    packed = Packed(scale="scale", shift="low")
    for_logits = False

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        parts = {"values": ("|u1", shape), "scale": ("<f4", shape[:-1]), "low": ("<f4", shape[:-1])}
        return RecordLayout.structured(parts)

    def encode(self, values: Array) -> dict[str, Array]:
        low = values.min(axis=-1)
        scale = ((values.max(axis=-1) - low) / np.float32(255)).astype("<f4")
        steps = np.rint((values - low[..., None]) / np.where(scale > 0, scale, 1)[..., None])
        return {"values": np.clip(steps, 0, 255).astype("u1"), "scale": scale, "low": low.astype("<f4")}


class Squared8(Codec):
    """Signed bytes that stand for their squares: finer near zero. No declaration says that, so it decodes itself."""

    name = "squared8"
    for_logits = False

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        return RecordLayout.structured({"roots": ("|i1", shape), "largest": ("<f4", shape[:-1])})

    def encode(self, values: Array) -> dict[str, Array]:
        largest = np.abs(values).max(axis=-1).astype("<f4")
        shares = np.abs(values) / np.where(largest > 0, largest, 1)[..., None]
        roots = np.rint(127 * np.sqrt(shares)) * np.sign(values)
        return {"roots": roots.astype("i1"), "largest": largest}

    def unpack(self, fields: Mapping[str, Any], shape: tuple[int, ...], xp: Any) -> Any:
        roots = xp.asarray(fields["roots"], dtype=xp.float32)
        return roots * abs(roots) / 16129 * fields["largest"][..., None]


class Top1(Codec):
    """The largest logit, and the mean of all others."""

    name = "top1"
    packed = SparseLogits(index="best", values="logit", other="mean")
    for_logits = True

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        return RecordLayout.structured({"best": ("<i2", (1,)), "logit": ("<f4", (1,)), "mean": ("<f2", ())})

    def encode(self, values: Array) -> dict[str, Array]:
        best = values.argmax(axis=-1, keepdims=True)
        logit = np.take_along_axis(values, best, axis=-1)
        mean = (values.sum(axis=-1) - logit[:, 0]) / max(1, values.shape[-1] - 1)
        return {"best": best.astype("<i2"), "logit": logit.astype("<f4"), "mean": mean.astype("<f2")}


def largest(values: np.ndarray) -> np.ndarray:
    return np.abs(values).max(axis=-1, keepdims=True)


CASES = {
    "scaled16": Case(Scaled16(), (7, 5), lambda values: largest(values) / 32767 * 0.51),
    "offset8": Case(
        Offset8(), (7, 5), lambda values: np.ptp(values, -1, keepdims=True) / 255 * 0.51 + largest(values) * 2.0**-22
    ),
    "squared8": Case(Squared8(), (7, 5), lambda values: largest(values) / 126),
    "top1": Case(Top1(), (9,), lambda values: np.ptp(values, -1, keepdims=True) + np.abs(values) * 2.0**-10),
}
# And four of the package's own: numbers that numpy has no name for, and three that decode themselves.
TOKEN_CODECS = [*(name for name, case in CASES.items() if not case.codec.for_logits), "fp8", "int4", "int8c", "factor"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


class TestConformance(Conformance):
    """The kit that kdcache's own codecs pass."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    root = tmp_path_factory.mktemp("added") / "cache"
    names = [*TOKEN_CODECS, "fp32"]
    patch = tuple(f"blocks.-1/patch:{name}{'=4' * (name == 'factor')}" for name in names)
    extract(tiny_extract(root, taps=(*patch, "head/logits:top1", "head/logits:fp32"), max_error=0.3))
    return open_cache(root)


def test_its_shards_pass_the_check(cache: Cache) -> None:
    [group] = cache.groups.values()
    assert [fault for shard in cache.manifest.shards for fault in verify_group_shard(cache, group, shard)] == []


def test_the_stream_delivers_it_and_torch_decodes_it(cache: Cache) -> None:
    """Every batch, against the fp32 column of the same pass encoded and decoded by numpy."""
    columns = cache.columns
    count = 0
    for batch in CacheLoader(cache, columns, StreamConfig(batch_size=8, num_threads=2)):
        for column in columns:
            exact = batch.targets[f"{GROUP}/{'blocks-1-patch' if column.kind == 'patch' else 'head-logits'}-fp32"]
            codec, shape = column.make_codec(), tuple(column.shape)
            expected = codec.decode(codec.encode(exact.fields["values"].numpy()), shape)
            np.testing.assert_array_equal(batch.targets[column.name].decode().numpy(), expected)
        count += len(batch)
    assert count == 16


def test_torch_holds_what_the_declaration_names(cache: Cache) -> None:
    targets = one_batch(cache).targets
    assert targets[f"{GROUP}/blocks-1-patch-offset8"].fields["values"].dtype == torch.uint8
    assert targets[f"{GROUP}/blocks-1-patch-fp8"].fields["values"].dtype == torch.float8_e4m3fn
    assert targets[f"{GROUP}/blocks-1-patch-scaled16"].fields["steps"].dtype == torch.int16


@pytest.mark.parametrize("kind", ["mse", "smooth_l1", "cosine", "normalized_mse"])
@pytest.mark.parametrize("codec", TOKEN_CODECS)
def test_the_fused_loss_takes_it_packed(cache: Cache, codec: str, kind: str) -> None:
    term, name = Tokens(loss=kind), f"blocks-1-patch-{codec}{'4' * (codec == 'factor')}"
    modules = modules_of(term, cache, [name], TokenShape(16, 12, (4, 4)))
    assert modules is not None
    adapter = modules[0].adapter
    project = adapter if isinstance(adapter, nn.Linear) else adapter.projection
    _, tokens = student_outputs(12)
    found = value_of(term, cache, [name], tokens, modules=modules)
    gradients = torch.autograd.grad(found, list(project.parameters()))
    decoded = one_batch(cache).targets[f"{GROUP}/{name}"].decode()
    expected = feature_loss(project(tokens), decoded, kind=kind)
    torch.testing.assert_close(found, expected)
    for one, wanted in zip(gradients, torch.autograd.grad(expected, list(project.parameters())), strict=True):
        torch.testing.assert_close(one, wanted)


def test_the_logit_loss_takes_it_sparse(cache: Cache) -> None:
    column = cache.find_column(kind="logits", codec="top1")
    with pytest.raises(ValueError, match="head-logits-top1 keeps some"):
        modules_of(Logits(temperature=2.0), cache, [column.facts.name])
    fields = one_batch(cache).targets[column.name].fields
    logits, _ = student_outputs(12)
    expected = top_k_logit_kd(logits, fields["best"], fields["logit"], fields["mean"])
    torch.testing.assert_close(value_of(Logits(), cache, [column.facts.name]), expected, rtol=0, atol=0)


def test_it_is_named_among_the_codecs(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"unknown codec 'fp7'.*offset8.*scaled16"):
        extract(tiny_extract(tmp_path / "cache", taps=("blocks.-1/patch:fp7",)))
