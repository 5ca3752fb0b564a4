"""What an analysis found, as data.

Levels (fractions of the energy, in percent) are the keys of the dictionaries: ``{"90": ...}``.
"""

from typing import Any, Literal

import msgspec

from kdcache.cache.record import Array

FORMAT = 2


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Part of a result."""


class Spread(Facts, frozen=True, kw_only=True):
    """One number a image (or token): how it is distributed. Percentiles interpolate linearly, as numpy's do."""

    mean: float
    std: float
    p25: float
    median: float
    p75: float
    p99: float


class Ranks(Facts, frozen=True, kw_only=True):
    """Components that explain a fraction of the energy.

    Attributes:
        max_rank: min(N, C).
        per_image, per_image_centred: Of each image's own singular values; centred: without the image's mean token.
        numerical: Singular values above ``max(N, C) * eps(float32)`` of the largest, per image.
        shared, shared_centred: Of each image, in one basis for all: the eigenvectors of the second moment of all tokens
            (centred: of their covariance). None without the records.
        all_tokens, all_tokens_centred: Where the spectrum of that moment itself crosses the level.
        all_tokens_standardized: The same of the covariance with every channel scaled to unit variance.
        num_tokens: Tokens that those moments are over.
        mean_energy: Fraction of all energy that lies in the mean token, 0 to 1.
    """

    max_rank: int
    per_image: dict[str, Spread]
    per_image_centred: dict[str, Spread] | None
    numerical: Spread | None
    shared: dict[str, Spread] | None
    shared_centred: dict[str, Spread] | None
    all_tokens: dict[str, int]
    all_tokens_centred: dict[str, int]
    all_tokens_standardized: dict[str, int]
    num_tokens: int
    mean_energy: float


class Bandwidths(Facts, frozen=True, kw_only=True):
    """Bins that have a fraction of the energy, read off a mean curve.

    Attributes:
        num_bins: D (full, sorted) or D // 2 + 1 (folded).
        bins: Of the tokens.
        white_noise: Of Gaussian white noise in the same width.
        permuted: {level: {"mean", "min", "max"}} over random orders of the channels; None where the order is no matter.
        permuted_l1: Mean over those orders of the mean distance between the curves, 0 to 1.
        per_token: Each token's own bandwidth; None without the records.
    """

    num_bins: int
    bins: dict[str, int]
    white_noise: dict[str, int]
    permuted: dict[str, dict[str, float]] | None = None
    permuted_l1: float | None = None
    per_token: dict[str, Spread] | None = None


class Sep(Facts, frozen=True, kw_only=True):
    """Token spectral energy over channels (arXiv 2511.15572).

    Attributes:
        full: Bins in FFT order: the published numbers.
        folded: Bins of a real FFT.
        sorted_spectrum, sorted_channels: Each token's bins, or squared channels, by falling energy; None without the
            records.
        num_zero_tokens: Tokens without energy, in no curve.
    """

    full: Bandwidths
    folded: Bandwidths
    sorted_spectrum: Bandwidths | None
    sorted_channels: Bandwidths | None
    num_zero_tokens: int


class Dynamics(Facts, frozen=True, kw_only=True):
    """Bits of the channel histogram, mean |x|, mean amplitude over channel frequencies (arXiv 2511.06848)."""

    entropy_bits: float
    magnitude: float
    intensity: float


class BranchSpectrum(Facts, frozen=True, kw_only=True):
    """Radial log amplitude of a multi-depth block's branches of one and of two convolutions (arXiv 2309.17334),
    relative to frequency 0; `frequency` in cycles per position of the map, `block` is its name in the model."""

    block: str
    frequency: list[float]
    shallow: list[float]
    deep: list[float]


class Layer(Facts, frozen=True, kw_only=True):
    """Everything about one tap.

    Attributes:
        name: The tap, ``blocks.23/patch``.
        block: Its block, from 0; the tokens of a student's change count as the block after the last.
        column: The column of the cache, empty for a model.
        codec: Its codec, empty for a model.
        num_tokens, num_channels: N and C.
        grid: (rows, columns) of the tokens, empty if they are on none.
        fidelity: Of the codec: relative_error, cosine, energy_kept; empty if unknown or without one.
        ranks, sep: None when no token has energy.
        dynamics: None without the records.
    """

    name: str
    block: int
    column: str
    codec: str
    num_tokens: int
    num_channels: int
    grid: list[int]
    fidelity: dict[str, float]
    ranks: Ranks | None
    sep: Sep | None
    dynamics: Dynamics | None


class Depth(Facts, frozen=True, kw_only=True):
    """One number a layer, over depth.

    Attributes:
        values: In the order of the blocks.
        has_u_shape: The smallest value lies inside, and on the way to it values fall and after it rise (Spearman
            correlation with depth below -0.5 before it and above 0.5 after it).
        minimum_at: Block of the smallest value.
    """

    values: list[float]
    has_u_shape: bool
    minimum_at: int


class Checkpoint(Facts, frozen=True, kw_only=True):
    """One set of weights of a model, its layers' dynamics in order."""

    weights: str
    entropy_bits: list[float]
    magnitude: list[float]
    intensity: list[float]


class LayerPairs(Facts, frozen=True, kw_only=True):
    """Which blocks SpectralKD would align.

    Attributes:
        teacher: Blocks whose intensity is in the upper half of the range.
        student: The blocks of the student they would meet; None without a student.
        reason: How they were chosen, with the numbers.
    """

    teacher: list[int]
    student: list[int] | None
    reason: str


class EffectiveRank(Facts, frozen=True, kw_only=True):
    """Effective rank (arXiv 2512.00792) of a table (rank, accuracy).

    Attributes:
        ranks, accuracies: The table.
        teacher_accuracy: What 85 and 95 % are of.
        region: The ranks of 85 and 95 %; None where the curve does not cross them.
        knee: The rank farthest from the chord; None for a level curve.
        knee_log: The same over the logarithm of the rank.
        notes: Why something is None, and what looks odd about the table.
    """

    ranks: list[float]
    accuracies: list[float]
    teacher_accuracy: float
    region: list[float | None]
    knee: float | None
    knee_log: float | None
    notes: list[str]


class Diagnosis(Facts, frozen=True, kw_only=True):
    """Whether one fixed map from a student's width can reach the tokens of a layer.

    Attributes:
        student: timm name.
        student_width: Channels of its last block.
        layer: The tap it is about.
        fixed_map: ``suffices``, ``suffices-with-bias`` or ``falls-short``: whether a linear map that is the same for
            every token can reach 99 % of the variance around the mean token.
        reach: Fraction of that variance, over all tokens, that such a map with a bias can reach at most.
        paragraph: The verdict with its numbers, cautions first.
        rows: A small table: (what, value).
        cautions: What makes this verdict unreliable; empty where nothing does.
        caveats: What no such verdict says.
    """

    student: str
    student_width: int
    layer: str
    fixed_map: Literal["suffices", "suffices-with-bias", "falls-short"]
    reach: float
    paragraph: str
    rows: list[tuple[str, str]]
    cautions: list[str]
    caveats: list[str]


class SourceFacts(Facts, frozen=True, kw_only=True):
    """What was analysed.

    Attributes:
        kind: ``cache`` or ``model``.
        path: The cache, or the name of the model.
        digest: Of the cache's manifest; empty for a model.
        teacher: timm name.
        weights: Where its weights came from.
        data: Whose images, in words: ``digits``, ``the cache``, or what was given for a model.
        num_images: Images there are.
        num_views: Views of each; the stored statistics are over all of them.
        num_read: Images whose first view's tokens were read.
        num_blocks: Blocks of the teacher; 0 where they are not known.
        view_recipe: How the images were cut out: ``eval``, ``rrc-flip``, ...
        view: The recipe's size, interpolation and further parameters.
    """

    kind: str
    path: str
    digest: str
    teacher: str
    weights: str
    data: str
    num_images: int
    num_views: int
    num_read: int
    num_blocks: int
    view_recipe: str
    view: dict[str, Any]


class Analysis(Facts, frozen=True, kw_only=True):
    """The whole result.

    Attributes:
        format: Of this file.
        versions: Of the libraries.
        date: ISO date.
        device: What it was computed on.
        settings: What was asked.
        layers: By depth.
        depth: ``entropy``, ``magnitude``, ``intensity``; empty for fewer than three layers.
        layer_pairs, effective_rank, diagnosis: None where not asked or not possible.
        checkpoints: A model's other weights, in the order given.
        branches: By depth; empty for a model without multi-depth blocks.
        made_from: For each analysis ``stored statistics`` or ``records``.
        left_out: What was not analysed, and why.
        seconds: For each part of the work.
    """

    format: int = FORMAT
    versions: dict[str, str]
    date: str
    device: str
    source: SourceFacts
    settings: dict[str, Any]
    layers: list[Layer]
    depth: dict[str, Depth]
    layer_pairs: LayerPairs | None
    effective_rank: EffectiveRank | None
    diagnosis: Diagnosis | None
    checkpoints: list[Checkpoint]
    branches: list[BranchSpectrum] = []
    made_from: dict[str, str]
    left_out: list[str]
    seconds: dict[str, float]


# Arrays by their path in the file.
Curves = dict[str, Array]
