"""Building the index of a column from its records as they pass, for extraction and rebuild alike."""

import numpy as np
from numpy.typing import DTypeLike

from kdcache.cache.base import BaseFingerprint
from kdcache.cache.codecs import Codec
from kdcache.cache.facts import ColumnFacts
from kdcache.cache.group_index import ColumnIndex
from kdcache.cache.record import Array, RecordLayout
from kdcache.cache.statistics import Fidelity, TokenStatistics, singular_energies, spectrum_step


class ColumnBuilder:
    """Builds the index of one column from its records as they pass; no bytes are written here.

    Args:
        facts: A column of tokens, logits or embeddings.
        statistics: ``full`` or ``light``, as in the group's fingerprint.
        base: Of the base.

    Attributes:
        num_records: Records so far.
    """

    def __init__(self, facts: ColumnFacts, statistics: str, base: BaseFingerprint) -> None:
        self.facts = facts
        self.codec: Codec = facts.make_codec()
        self.layout: RecordLayout = facts.layout()
        self.shape = tuple(facts.shape)
        full = statistics == "full" and facts.kind == "patch"
        self._statistics = TokenStatistics(self.shape[-1], with_moments=full)
        self._spectrum_every = base.views.num_views * spectrum_step(base.shard_samples) if full else 0
        self._checksums: list[Array] = []
        self._sums: list[Array] = []
        self._squares: list[Array] = []
        self._spectra: list[Array] = []
        self.num_records = 0

    def add(self, decoded: Array, checksums: Array) -> None:
        """Take in the decoded values (B, *shape) and the payload checksums (B,) of the next records."""
        tokens = decoded if len(self.shape) == 2 else decoded[:, None, :]
        sums, squares = self._statistics.update(tokens)
        self._sums.append(sums.astype(np.float32))
        self._squares.append(squares)
        self._checksums.append(checksums)
        if self._spectrum_every:
            first = -self.num_records % self._spectrum_every
            self._spectra.append(singular_energies(tokens[first :: self._spectrum_every]))
        self.num_records += len(decoded)

    def refuse_constant(self, where: str) -> None:
        """Refuse records that are all the same; see TokenStatistics. Raises: BadRecordError."""
        self._statistics.refuse_constant(where)

    def finish(self, fidelity: Fidelity | None) -> ColumnIndex:
        """The column's part of the index. Args: fidelity: Of its codec, where it is known."""
        records = range(0, self.num_records, self._spectrum_every) if self._spectrum_every else ()
        return ColumnIndex(
            stride=self.layout.stride_bytes,
            crc32=_joined(self._checksums, (0,), np.uint32),
            column_sums=_joined(self._sums, (0, self.shape[-1]), np.float32),
            sum_of_squares=_joined(self._squares, (0,), np.float64),
            statistics=self._statistics,
            spectrum_records=np.array(records, np.int64),
            singular_energies=_joined(self._spectra, (0, min(self.shape)), np.float32),
            fidelity=fidelity,
        )


def _joined(parts: list[Array], empty_shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    return np.concatenate([np.empty(empty_shape, dtype), *parts])
