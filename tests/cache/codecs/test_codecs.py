import numpy as np
import pytest
import torch

from kdcache.cache.codecs import CODECS, Codec, Packed, make_codec, parse_codec
from tests.cache.codecs.conformance import Case, Conformance, channel_errors, packed_targets


def _half(values: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(values) * 2.0**-11, 2.0**-25)


def _eighth(values: np.ndarray) -> np.ndarray:
    # Half of the last of three bits, or half a step of the subnormal numbers; dividing by the scale rounds once more.
    largest = np.abs(values).max(-1, keepdims=True)
    return np.maximum(np.abs(values) * (2.0**-4 + 2.0**-20), largest / 448 * 2.0**-10 * (1 + 2.0**-20))


def _rotated(values: np.ndarray) -> np.ndarray:
    # Half a step in each of 32 rotated channels, a step being a seventh of the largest: at most the group's norm over
    # 14 times sqrt(32). Then what float16 does to the mean and to the smallest scales.
    mean = values.mean(axis=1, keepdims=True) if values.ndim == 3 and values.shape[1] >= 32 else 0
    spread = np.abs(values - mean) + np.abs(mean) * 2.0**-11
    num_groups = -(-values.shape[-1] // 32)
    filled = np.zeros((*values.shape[:-1], 32 * num_groups))
    filled[..., : values.shape[-1]] = spread
    norms = np.linalg.norm(filled.reshape(*values.shape[:-1], num_groups, 32), axis=-1)
    return norms.repeat(32, axis=-1)[..., : values.shape[-1]] * (32**0.5 / 14 * 1.01) + 1e-5


def _by_channel(values: np.ndarray) -> np.ndarray:
    # Half a step, a step being at most sqrt(N) / 127 of the channel's spread in its record; what float16 does to the
    # mean is a part of that spread.
    mean = values.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(values - mean).mean(axis=1, keepdims=True)) + np.abs(mean) * 2.0**-11
    return spread * (values.shape[1] ** 0.5 / 254 * 1.01) + 1e-5


def _whole_record(values: np.ndarray) -> np.ndarray:
    # Directions that are dropped, and what 4 bits leave of the others, are less than all that varies.
    mean = values.mean(axis=1, keepdims=True)
    energy = np.square(values - mean).sum(axis=(1, 2), keepdims=True)
    return np.sqrt(energy) * np.ones_like(values) + np.abs(mean) * 2.0**-11 + 1e-5


CASES = {
    "fp32": Case(make_codec("fp32"), (7, 5), np.zeros_like),
    "fp16": Case(make_codec("fp16"), (7, 5), _half),
    "bf16": Case(make_codec("bf16"), (7, 5), lambda values: np.abs(values) * 2.0**-8),
    "int8": Case(make_codec("int8"), (7, 5), lambda values: np.abs(values).max(-1, keepdims=True) / 253.9),
    "int8 embedding": Case(make_codec("int8"), (5,), lambda values: np.abs(values).max(-1, keepdims=True) / 253.9),
    "fp8": Case(make_codec("fp8"), (7, 5), _eighth),
    "fp8 embedding": Case(make_codec("fp8"), (5,), _eighth),
    "int8c": Case(make_codec("int8c"), (16, 5), _by_channel),
    "int8c, many tokens": Case(make_codec("int8c"), (49, 70), _by_channel),
    "int4": Case(make_codec("int4"), (7, 5), _rotated),
    "int4 of groups": Case(make_codec("int4"), (7, 96), _rotated),
    "int4 with mean": Case(make_codec("int4"), (49, 70), _rotated),
    "int4 embedding": Case(make_codec("int4"), (33,), _rotated),
    "factor": Case(make_codec("factor", {"rank": 4}), (7, 5), _whole_record),
    "factor of few channels": Case(make_codec("factor", {"rank": 4}), (49, 4), _whole_record),
    "factor of many tokens": Case(make_codec("factor", {"rank": 12}), (49, 70), _whole_record),
    "fp32 logits": Case(make_codec("fp32"), (9,), np.zeros_like),
    "fp16 logits": Case(make_codec("fp16"), (9,), _half),
    "topk of all": Case(make_codec("topk", {"k": 9}), (9,), _half),
    # What is thrown away lies between the smallest and the largest logit.
    "topk of some": Case(
        make_codec("topk", {"k": 3}), (9,), lambda values: np.ptp(values, -1, keepdims=True) + _half(values)
    ),
    # Logits of classes that are not drawn are -1e4; those that are, are logarithms of probabilities.
    "sampled": Case(make_codec("sampled", {"k": 3}), (9,), lambda values: np.abs(values) + 1e4),
    "sampled all": Case(make_codec("sampled", {"k": 9}), (9,), lambda values: np.abs(values) + 1e4),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


class TestConformance(Conformance):
    """The codecs of the package."""


@pytest.mark.parametrize("name", ["int4", "int8c"])
def test_torch_encodes_the_same_bytes(random: np.random.Generator, name: str) -> None:
    """Millions of values, huge channels, integers whose sums are exact, groups with ties."""
    tokens = (random.standard_normal((8, 196, 384)) * np.geomspace(0.1, 10, 384)).astype(np.float32)
    tokens[:4, :, 3] += 300
    tokens[0] = random.integers(-3, 4, tokens.shape[1:])
    tokens[1, :, 5:] = 0
    codec = make_codec(name)
    found = codec.encode_fields(torch.from_numpy(tokens), torch)
    for field, values in codec.encode(tokens).items():
        np.testing.assert_array_equal(found[field].numpy(), values)


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


class TestInt4:
    """Groups of 32 channels, rotated, with the mean of a record's channels taken off."""

    @pytest.fixture
    def tokens(self, random: np.random.Generator) -> np.ndarray:
        return random.standard_normal((2, 196, 384)).astype(np.float32)

    def lost(self, tokens: np.ndarray, name: str = "int4") -> np.ndarray:
        return channel_errors(make_codec(name), tokens)

    def test_it_keeps_99_percent_of_the_energy_in_less_than_30_percent_of_the_bytes(self, tokens: np.ndarray) -> None:
        assert np.square(self.lost(tokens)).mean() < 0.01
        sizes = [make_codec(name).layout((196, 384)).payload_bytes for name in ("int4", "fp16")]
        assert sizes[0] < 0.3 * sizes[1]

    @pytest.mark.parametrize("offset", [100, 300, -300])
    def test_a_channel_that_is_large_in_all_tokens_costs_the_others_nothing(
        self, tokens: np.ndarray, offset: float
    ) -> None:
        shifted = tokens.copy()
        shifted[..., 7] += offset
        others, before = (np.delete(self.lost(each), 7) for each in (shifted, tokens))
        assert others.mean() == pytest.approx(before.mean(), rel=0.01)
        assert others.max() < 1.1 * before.max()
        assert np.delete(self.lost(shifted, "int8"), 7).min() > 0.2

    def test_a_channel_that_is_large_in_some_tokens_costs_only_its_group(
        self, tokens: np.ndarray, random: np.random.Generator
    ) -> None:
        shifted = tokens.copy()
        shifted[..., 7] += 300 * (random.random(tokens.shape[:2]) < 0.1)
        lost, before = self.lost(shifted), self.lost(tokens)
        np.testing.assert_allclose(lost[32:], before[32:], rtol=1e-6)
        assert lost[:32].max() > 2 * before[:32].max(), "which the documentation admits"

    def test_constant_channels_come_back_as_float16(self, random: np.random.Generator) -> None:
        channels = random.standard_normal(96).astype(np.float32)
        tokens = np.broadcast_to(channels, (1, 49, 96))
        found = make_codec("int4").decode(make_codec("int4").encode(tokens), (49, 96))
        assert np.abs(found - tokens).max() < 2.0**-11

    @pytest.mark.parametrize("shape", [(7, 96), (49, 96), (96,)])
    @pytest.mark.parametrize("value", [1e7, -1e7, 3e38])
    def test_overflow_is_not_finite_for_the_writer_to_refuse(self, shape: tuple[int, ...], value: float) -> None:
        codec = make_codec("int4")
        values = np.ones((2, *shape), np.float32)
        values[1] = value
        found = codec.decode(codec.encode(values), shape)
        assert np.isfinite(found[0]).all()
        assert not np.isfinite(found[1]).any()

    def test_all_of_fp16_is_in_range(self, random: np.random.Generator) -> None:
        signs = np.where(random.random((2, 49, 96)) < 0.5, -1, 1)
        for values in (signs * 65504, np.full((2, 49, 96), 65504), np.full((2, 49, 96), -65504)):
            codec = make_codec("int4")
            assert np.isfinite(codec.decode(codec.encode(values.astype(np.float32)), (49, 96))).all()

    @pytest.mark.parametrize("shape", [(7, 40), (49, 96)])
    def test_it_decodes_in_a_compiled_step_and_under_autocast(
        self, random: np.random.Generator, shape: tuple[int, ...]
    ) -> None:
        codec = make_codec("int4")
        fields = codec.encode(random.standard_normal((3, *shape)).astype(np.float32))
        tensors = {name: torch.from_numpy(values) for name, values in fields.items()}
        compiled = torch.compile(lambda given: codec.unpack(given, shape, torch), backend="eager", fullgraph=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = compiled(tensors)
        np.testing.assert_array_equal(found.numpy(), codec.decode(fields, shape))


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
