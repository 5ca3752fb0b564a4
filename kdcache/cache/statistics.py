"""Running statistics of a column, gathered in the one pass and mergeable over shards.

They describe the decoded values, so that they can be rebuilt from the tars alone and so that the fused loss may use
them in place of a batch's own sums.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits  # pyright: ignore[reportMissingTypeStubs]

from kdcache.cache.record import Array
from kdcache.cache.token_sums import Moments, TokenSums, sum_tokens
from kdcache.errors import BadRecordError

# Singular values cost far more than everything else here, and a percentile over images needs hundreds, not millions.
_NUM_SPECTRA = 1024
MAX_SPECTRA_PER_SHARD = 32


@dataclass
class TokenStatistics:
    """Count, moments and extremes of the tokens of a column; all sums in float64.

    Args:
        num_channels: C (or K for logits).
        with_moments: Whether to keep the two (C, C) second moments.

    Attributes:
        count: Tokens seen.
        mean, m2: (C,) running mean, and sum of squared deviations from it.
        minimum, maximum: (C,).
        raw_moment: (C, C) sum over tokens of x xᵀ; empty without moments.
        unit_moment: (C, C) sum over non-zero tokens of x xᵀ / ‖x‖².
        num_zero_tokens: Tokens of zero energy, absent from unit_moment.
    """

    num_channels: int
    with_moments: bool
    count: int = 0
    num_zero_tokens: int = 0
    mean: Array = field(init=False)
    m2: Array = field(init=False)
    minimum: Array = field(init=False)
    maximum: Array = field(init=False)
    raw_moment: Array = field(init=False)
    unit_moment: Array = field(init=False)

    def __post_init__(self) -> None:
        channels = self.num_channels
        side = channels if self.with_moments else 0
        self.mean, self.m2 = np.zeros(channels), np.zeros(channels)
        self.minimum, self.maximum = np.full(channels, np.inf), np.full(channels, -np.inf)
        self.raw_moment, self.unit_moment = np.zeros((side, side)), np.zeros((side, side))

    @property
    def is_constant(self) -> bool:
        """Whether all tokens are equal; False for fewer than two."""
        return self.count > 1 and bool((self.minimum == self.maximum).all())

    def refuse_constant(self, where: str) -> None:
        """Refuse the outputs of a teacher that gives the same for everything.

        Args:
            where: Shard, group and column, for the message.

        Raises: BadRecordError.
        """
        if self.is_constant:
            raise BadRecordError(
                f"{where}: the teacher's outputs are exactly the same for every token; check its weights, its input "
                "normalisation and the images"
            )

    @property
    def variance(self) -> Array:
        """(C,) of each channel; zeros where nothing was seen."""
        return self.m2 / max(self.count, 1)

    @property
    def covariance(self) -> Array:
        """(C, C) from the second moments; unlike `variance`, its diagonal loses small ones beside a large mean."""
        return self.raw_moment / self.count - np.outer(self.mean, self.mean)

    def update(self, features: Array) -> TokenSums:
        """Add records.

        Args:
            features: (B, N, C) float32, perhaps no records; logits as (B, 1, K), embeddings as (B, 1, C).

        Returns: what was added.
        """
        sums = sum_tokens(features, with_moments=self.with_moments)
        self.add(sums)
        return sums

    def add(self, sums: TokenSums) -> None:
        """Add records by their sums, which hold moments where these statistics keep them."""
        self._merge_moments(sums.moments)
        self.minimum = np.minimum(self.minimum, sums.minimum)
        self.maximum = np.maximum(self.maximum, sums.maximum)
        self.raw_moment += sums.raw_moment
        self.unit_moment += sums.unit_moment
        self.num_zero_tokens += sums.num_zero_tokens

    def merge(self, other: "TokenStatistics") -> None:
        """Add what another shard saw.

        Raises: ValueError if the two do not describe the same kind of column.
        """
        if (self.num_channels, self.with_moments) != (other.num_channels, other.with_moments):
            raise ValueError(
                f"cannot merge statistics of {other.num_channels} channels into those of {self.num_channels}, or with "
                "and without second moments"
            )
        self._merge_moments(Moments(other.count, other.mean, other.m2))
        self.minimum = np.minimum(self.minimum, other.minimum)
        self.maximum = np.maximum(self.maximum, other.maximum)
        self.raw_moment += other.raw_moment
        self.unit_moment += other.unit_moment
        self.num_zero_tokens += other.num_zero_tokens

    def _merge_moments(self, moments: Moments) -> None:
        own = Moments(self.count, self.mean, self.m2)
        own.merge(moments)
        self.count, self.mean, self.m2 = own.count, own.mean, own.m2


def merged(parts: Iterable[TokenStatistics]) -> TokenStatistics:
    """One statistic for all shards.

    Raises: ValueError for no parts.
    """
    total: TokenStatistics | None = None
    for part in parts:
        if total is None:
            total = TokenStatistics(part.num_channels, part.with_moments)
        total.merge(part)
    if total is None:
        raise ValueError("no statistics to merge")
    return total


def singular_energies(features: Array) -> Array:
    """Squared singular values of each image's token matrix, largest first.

    Args:
        features: (B, N, C) float32, uncentred.

    Returns: (B, min(N, C)) float32, the eigenvalues of the smaller Gram matrix; empty for no images
        or no tokens.
    """
    if not features.size:
        return np.zeros((len(features), min(features.shape[1:])), np.float32)
    wide = features.astype(np.float64)
    turned = wide.transpose(0, 2, 1)
    gram = wide @ turned if wide.shape[1] <= wide.shape[2] else turned @ wide
    # LAPACK's result depends on the number of BLAS threads in the last bit; the same plan must give the same bytes.
    with threadpool_limits(1, user_api="blas"):
        energies = np.linalg.eigvalsh(gram)[:, ::-1]
    return np.maximum(energies, 0).astype(np.float32)


def spectrum_step(num_samples: int, shard_samples: int) -> int:
    """Every how many samples of a shard the first view has its singular values kept.

    Args:
        num_samples: Images planned for the cache.
        shard_samples: Images planned for a full shard.
    """
    num_shards = max(1, -(-num_samples // shard_samples))
    per_shard = min(MAX_SPECTRA_PER_SHARD, -(-_NUM_SPECTRA // num_shards))
    return max(1, shard_samples // per_shard)
