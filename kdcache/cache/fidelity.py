"""How much of the teacher's values a codec keeps: as a whole, around the channels' means, and channel by channel."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kdcache.cache.record import Array
from kdcache.cache.token_sums import Moments, moments_of

# A channel that loses more than this fraction of its own spread is counted.
_LARGE_CHANNEL_ERROR = 0.1


def _no_channels() -> Array:
    return np.zeros(0)


@dataclass
class Fidelity:
    """Sums over records, mergeable over shards; all in float64.

    The error as a fraction of all energy hides what one large channel does to the others: with a scale a token, int8
    loses 22 % of every other channel beside one at +100, at a cosine of .999. So the spread of the channels is measured
    too.

    Attributes:
        energy: Sum of squares of the teacher's values.
        error: Sum of squared differences to the decoded values.
        kept: Sum of squares of the decoded values.
        cosine: Sum over tokens of the cosine between teacher and decoded token.
        num_tokens: Tokens with a cosine, i.e. non-zero on both sides.
        channels: Of the teacher's values; no channels where they are not measured one by one, as for logits.
        channel_error: (C,) sum of squared differences of each channel.
    """

    energy: float = 0.0
    error: float = 0.0
    kept: float = 0.0
    cosine: float = 0.0
    num_tokens: int = 0
    channels: Moments = field(default_factory=Moments)
    channel_error: Array = field(default_factory=_no_channels)

    def update(self, values: Array, decoded: Array, *, by_channel: bool = True) -> None:
        """Compare (..., C) float32 values with what the codec gives back."""
        energy = np.einsum("...c,...c->...", values, values, dtype=np.float64)
        kept = np.einsum("...c,...c->...", decoded, decoded, dtype=np.float64)
        dot = np.einsum("...c,...c->...", values, decoded, dtype=np.float64)
        difference = (values - decoded).reshape(-1, values.shape[-1])
        channel_error = np.einsum("tc,tc->c", difference, difference, dtype=np.float64)
        valid = (energy > 0) & (kept > 0)
        self.merge(
            Fidelity(
                energy=float(energy.sum()),
                error=float(channel_error.sum()),
                kept=float(kept.sum()),
                cosine=float((dot[valid] / np.sqrt(energy[valid] * kept[valid])).sum()),
                num_tokens=int(valid.sum()),
                channels=moments_of(values.reshape(-1, values.shape[-1])) if by_channel else Moments(),
                channel_error=channel_error if by_channel else _no_channels(),
            )
        )

    def merge(self, other: "Fidelity") -> None:
        """Add what another shard measured."""
        self.energy += other.energy
        self.error += other.error
        self.kept += other.kept
        self.cosine += other.cosine
        self.num_tokens += other.num_tokens
        if other.channels.count:
            first = not self.channels.count
            self.channel_error = other.channel_error.copy() if first else self.channel_error + other.channel_error
            self.channels.merge(other.channels)

    def arrays(self) -> dict[str, Array]:
        """Its datasets: the five sums and the number of tokens; then of each channel mean, m2 and error, (3, C)."""
        totals = [self.energy, self.error, self.kept, self.cosine, self.num_tokens, self.channels.count]
        return {
            "fidelity": np.array(totals, np.float64),
            "fidelity_channels": np.stack([self.channels.mean, self.channels.m2, self.channel_error]),
        }

    @classmethod
    def from_arrays(cls, totals: Array, channels: Array) -> "Fidelity":
        """What `arrays` gave. Raises: ValueError for other shapes."""
        energy, error, kept, cosine, num_tokens, count = totals.tolist()
        mean, m2, channel_error = channels
        return cls(energy, error, kept, cosine, int(num_tokens), Moments(int(count), mean, m2), channel_error)

    def summary(self) -> dict[str, float]:
        """relative_error (of norms), mean token cosine and the fraction of energy kept.

        Of channels measured one by one also the error relative to the spread around their means: of all
        (centred_error), of the median and the worst channel, and the fraction of channels that lose more than a
        tenth. Channels without any spread are left out.
        """
        found = {
            "relative_error": float(np.sqrt(self.error / self.energy)) if self.energy else 0.0,
            "cosine": self.cosine / self.num_tokens if self.num_tokens else 1.0,
            "energy_kept": self.kept / self.energy if self.energy else 1.0,
        }
        spread = self.channels.m2
        varies = spread > 0
        if not varies.any():
            return found
        errors = np.sqrt(self.channel_error[varies] / spread[varies])
        return {
            **found,
            "centred_error": float(np.sqrt(self.error / spread.sum())),
            "median_channel_error": float(np.median(errors)),
            "worst_channel_error": float(errors.max()),
            "channels_above_tenth": float((errors > _LARGE_CHANNEL_ERROR).mean()),
        }


def decisive_error(summary: Mapping[str, float]) -> float:
    """The one figure of a `Fidelity.summary` that a limit bounds; 0 for an empty one, of a rebuilt index.

    Of channels measured one by one the centred error, or half the median channel's where that is larger: a channel that
    is huge in few tokens is most of the spread itself, and hides what happens to the others. Else the relative error.
    """
    if "centred_error" not in summary:
        return summary.get("relative_error", 0.0)
    return max(summary["centred_error"], summary["median_channel_error"] / 2)
