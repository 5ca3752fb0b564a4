import io

import numpy as np
import pytest
import torch

from kdcache.cache.codecs import CODECS, make_codec, parse_codec
from kdcache.cache.manifest import ColumnFacts
from kdcache.stream.targets import TORCH_DTYPES, PackedTargets
from tests.cache.codecs.conformance import CASES, samples

BATCHES = list(samples((1,)))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", CASES)
class TestConformance:
    """Every codec on every batch."""

    def test_the_error_is_bounded(self, name: str, batch: str) -> None:
        case = CASES[name]
        values = samples(case.shape)[batch]
        decoded = case.codec.decode(case.codec.encode(values), case.shape)
        assert decoded.dtype == np.float32
        assert decoded.shape == values.shape
        error = np.abs(decoded.astype(np.float64) - values)
        assert (error <= case.bound(values.astype(np.float64)) + 1e-38).all()

    def test_fields_fit_the_layout_and_survive_npy(self, name: str, batch: str) -> None:
        case = CASES[name]
        fields = case.codec.encode(samples(case.shape)[batch])
        layout = case.codec.layout(case.shape)
        for number, payload in enumerate(layout.pack(fields)):
            loaded = np.load(io.BytesIO(layout.header + payload.tobytes()), allow_pickle=False)
            for field in layout.fields:
                found = loaded if len(layout.fields) == 1 else loaded[field.name]
                np.testing.assert_array_equal(found, fields[field.name][number])

    def test_records_do_not_depend_on_their_neighbours(self, name: str, batch: str) -> None:
        case = CASES[name]
        values = samples(case.shape)[batch]
        layout = case.codec.layout(case.shape)
        together = layout.pack(case.codec.encode(values))
        for number in range(len(values)):
            alone = layout.pack(case.codec.encode(values[number : number + 1]))
            np.testing.assert_array_equal(together[number : number + 1], alone)

    def test_torch_decodes_the_same_bits(self, name: str, batch: str) -> None:
        case = CASES[name]
        fields = case.codec.encode(samples(case.shape)[batch])
        column = ColumnFacts(
            name="c", tap="t", kind="patch", codec=case.codec.name, params=case.codec.params,
            shape=list(case.shape), grid=[], stride_bytes=0,
        )  # fmt: skip
        tensors = {
            field.name: torch.from_numpy(fields[field.name].copy()).view(TORCH_DTYPES[field.dtype.str])
            for field in case.codec.layout(case.shape).fields
        }
        expected = case.codec.decode(fields, case.shape)
        np.testing.assert_array_equal(PackedTargets(column, tensors).decode().numpy(), expected)


def test_every_codec_is_covered() -> None:
    assert {case.codec.name for case in CASES.values()} == set(CODECS)


def test_fp16_overflow_becomes_infinity_for_the_writer_to_refuse() -> None:
    codec = make_codec("fp16")
    values = np.array([[[70000.0]]], np.float32)
    assert np.isinf(codec.decode(codec.encode(values), (1, 1))).all()


def test_bf16_rounds_to_nearest_even_like_torch() -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal(100_000).astype(np.float32)
    bits = values.view(np.uint32)
    bits[:1000] = (bits[:1000] & np.uint32(0xFFFF0000)) | np.uint32(0x8000)  # exact ties
    codec = make_codec("bf16")
    ours = codec.decode(codec.encode(values[None]), values.shape)[0]
    theirs = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(ours, theirs)


class TestTopK:
    """The one codec that throws values away."""

    def test_it_keeps_the_largest_and_the_mass_of_the_rest(self, random: np.random.Generator) -> None:
        logits = random.standard_normal((6, 50)).astype(np.float32) * 3
        fields = make_codec("topk", {"k": 5}).encode(logits)
        order = np.argsort(-logits, axis=1)
        np.testing.assert_array_equal(fields["index"], order[:, :5])
        exact = np.log(np.exp(np.take_along_axis(logits, order[:, 5:], 1).astype(np.float64)).sum(1))
        np.testing.assert_allclose(fields["rest"], exact, rtol=1e-6)

    def test_probabilities_of_the_kept_classes_survive(self, random: np.random.Generator) -> None:
        logits = random.standard_normal((6, 50)).astype(np.float32) * 3
        codec = make_codec("topk", {"k": 5})
        fields = codec.encode(logits)
        decoded = codec.decode(fields, (50,))
        exact, found = (np.exp(each) / np.exp(each).sum(1, keepdims=True) for each in (logits, decoded))
        kept = fields["index"].astype(np.int64)
        found_kept, exact_kept = (np.take_along_axis(each, kept, 1) for each in (found, exact))
        np.testing.assert_allclose(found_kept, exact_kept, rtol=5e-3)
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)

    def test_ties_go_to_the_lower_class(self) -> None:
        fields = make_codec("topk", {"k": 2}).encode(np.zeros((1, 4), np.float32))
        assert fields["index"].tolist() == [[0, 1]]

    def test_more_classes_than_there_are(self) -> None:
        with pytest.raises(ValueError, match="at least 5 classes"):
            make_codec("topk", {"k": 5}).layout((4,))


@pytest.mark.parametrize("text", ["fp8", "topk", "topk=x", "topk=0", "fp16=3", ""])
def test_what_users_mistype(text: str) -> None:
    with pytest.raises(ValueError, match=r"codec|topk"):
        parse_codec(text)


def test_a_manifest_cannot_smuggle_parameters() -> None:
    with pytest.raises(ValueError, match="does not take"):
        make_codec("fp16", {"path": "x"})
    assert make_codec("topk", {"k": 3}).params == {"k": 3} == parse_codec("topk=3").params
