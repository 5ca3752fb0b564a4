"""Where a stream stands: a few integers, and the identity of what they count."""

from dataclasses import asdict, dataclass
from typing import Any

from kdcache.errors import CacheMismatchError


@dataclass(frozen=True)
class StreamState:
    """A position between two global batches.

    Args:
        cache: sha256 of the cache's manifest.
        seed: Of the order.
        epoch: From 0.
        position: Samples of this epoch that all ranks together have consumed.
        order: StreamOrder.description.
    """

    cache: str
    seed: int
    epoch: int
    position: int
    order: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "StreamState":
        """Read what as_dict gave.

        Raises: ValueError for anything else.
        """
        try:
            return cls(**values)
        except TypeError:
            raise ValueError(f"not the state of a stream: {values!r}") from None

    def step(self, *, cache: str, seed: int, samples_per_batch: int, order: str) -> int:
        """The next global batch of the epoch, after checking that the state belongs to this stream.

        Raises: CacheMismatchError naming what differs and both values.
        """
        if self.cache != cache:
            raise CacheMismatchError(
                f"the state was saved with cache {self.cache[:12]}…, this one is {cache[:12]}…; resume with the same "
                "cache"
            )
        if self.seed != seed:
            raise CacheMismatchError(f"the state was saved with seed {self.seed}, this stream has seed {seed}")
        if self.order != order:
            raise CacheMismatchError(
                f"the state was saved in another order: {self.order}; this stream has {order}; resume with the "
                "settings it was saved with"
            )
        if self.position % samples_per_batch:
            raise CacheMismatchError(
                f"the state stands at sample {self.position}, which is no multiple of the {samples_per_batch} samples "
                "of a global batch; resume with the batch size it was saved with"
            )
        return self.position // samples_per_batch
