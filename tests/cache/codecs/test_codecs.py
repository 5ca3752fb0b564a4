import numpy as np
import pytest
import torch

from kdcache.cache.codecs import CODECS, Codec, Packed, make_codec, parse_codec
from tests.cache.codecs.conformance import Case, Conformance, packed_targets


def _half(values: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(values) * 2.0**-11, 2.0**-25)


def _eighth(values: np.ndarray) -> np.ndarray:
    # Half of the last of three bits, or half a step of the subnormal numbers; dividing by the scale rounds once more.
    largest = np.abs(values).max(-1, keepdims=True)
    return np.maximum(np.abs(values) * (2.0**-4 + 2.0**-20), largest / 448 * 2.0**-10 * (1 + 2.0**-20))


CASES = {
    "fp32": Case(make_codec("fp32"), (7, 5), np.zeros_like),
    "fp16": Case(make_codec("fp16"), (7, 5), _half),
    "bf16": Case(make_codec("bf16"), (7, 5), lambda values: np.abs(values) * 2.0**-8),
    "int8": Case(make_codec("int8"), (7, 5), lambda values: np.abs(values).max(-1, keepdims=True) / 253.9),
    "int8 embedding": Case(make_codec("int8"), (5,), lambda values: np.abs(values).max(-1, keepdims=True) / 253.9),
    "fp8": Case(make_codec("fp8"), (7, 5), _eighth),
    "fp8 embedding": Case(make_codec("fp8"), (5,), _eighth),
    "fp32 logits": Case(make_codec("fp32"), (9,), np.zeros_like),
    "fp16 logits": Case(make_codec("fp16"), (9,), _half),
    "topk of all": Case(make_codec("topk", {"k": 9}), (9,), _half),
    # What is thrown away lies between the smallest and the largest logit.
    "topk of some": Case(
        make_codec("topk", {"k": 3}), (9,), lambda values: np.ptp(values, -1, keepdims=True) + _half(values)
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


class TestConformance(Conformance):
    """The codecs of the package."""


def test_every_codec_is_covered() -> None:
    own = {name for name, codec in CODECS.items() if codec.__module__.startswith("kdcache.")}
    assert {case.codec.name for case in CASES.values()} == own


def test_two_codecs_of_one_name_are_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"'fp16' is defined twice, in kdcache\.cache\.codecs\.fp16 and in"):

        class Other(Codec):
            name = "fp16"
            packed = Packed()

    assert CODECS["fp16"].__module__ == "kdcache.cache.codecs.fp16"


def test_fp8_has_the_bits_of_torch() -> None:
    """Every value of the format, every midpoint between two, and the neighbours of both, with each sign."""
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middle = (codes[1:] + codes[:-1]) / 2
    near = [torch.nextafter(each, torch.tensor(limit)) for each in (codes, middle) for limit in (-1e9, 1e9)]
    values = torch.cat([codes, middle, *near])
    values = torch.cat([values, -values, torch.tensor([0.0, -0.0])]).clamp(-448, 448)
    # A first value of 448 makes the scale 1.
    token = torch.cat([torch.tensor([448.0]), values])
    fields = make_codec("fp8").encode(token.numpy()[None, None])
    assert fields["scale"].item() == 1
    assert (fields["values"][0, 0] == token.to(torch.float8_e4m3fn).view(torch.uint8).numpy()).all()
    expected = token.to(torch.float8_e4m3fn).float().numpy()
    assert (make_codec("fp8").decode(fields, (1, len(token)))[0, 0] == expected).all()


def test_fp8_keeps_small_channels_beside_one_that_is_large() -> None:
    """One channel at +300: int8's one step for all takes most of the others, three bits of their own do not."""
    tokens = np.random.default_rng(0).standard_normal((1, 64, 32)).astype(np.float32)
    tokens[..., 0] += 300
    lost = {}
    for name in ("int8", "fp8"):
        codec = make_codec(name)
        decoded = codec.decode(codec.encode(tokens), (64, 32))
        lost[name] = np.linalg.norm((decoded - tokens)[..., 1:]) / np.linalg.norm(tokens[..., 1:])
    assert lost["int8"] > 0.5
    assert lost["fp8"] < 0.05


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
        exact = np.log(np.exp(np.take_along_axis(logits, order[:, 5:], 1).astype(np.float64)).mean(1))
        np.testing.assert_allclose(fields["other"], exact, rtol=1e-6)

    @pytest.mark.parametrize("k", [1, 5, 49, 50])
    @pytest.mark.parametrize("classes", [50, 1000, 21_841])
    def test_decoding_copies_what_was_stored(self, random: np.random.Generator, k: int, classes: int) -> None:
        """No library's logarithm or exponential takes part, so that all agree to the bit."""
        logits = random.standard_normal((7, classes)).astype(np.float32) * 5
        codec = make_codec("topk", {"k": k})
        fields = codec.encode(logits)
        decoded = codec.decode(fields, (classes,))
        case = Case(codec, (classes,), np.zeros_like)
        np.testing.assert_array_equal(packed_targets(case, fields).decode().numpy(), decoded)
        kept = np.zeros(logits.shape, bool)
        np.put_along_axis(kept, fields["index"].astype(np.int64), True, 1)
        assert (kept.sum(1) == k).all()
        np.testing.assert_array_equal(decoded, np.where(kept, logits.astype(np.float16), fields["other"][:, None]))

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


@pytest.mark.parametrize("text", ["fp7", "fp8=3", "topk", "topk=x", "topk=0", "fp16=3", ""])
def test_what_users_mistype(text: str) -> None:
    with pytest.raises(ValueError, match=r"codec|topk"):
        parse_codec(text)


def test_a_manifest_cannot_smuggle_parameters() -> None:
    with pytest.raises(ValueError, match="does not take"):
        make_codec("fp16", {"path": "x"})
    assert make_codec("topk", {"k": 3}).params == {"k": 3} == parse_codec("topk=3").params
