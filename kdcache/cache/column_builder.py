"""Building the index of a column from its records as they pass, for extraction and rebuild alike."""

import numpy as np
from numpy.typing import DTypeLike

from kdcache.cache.base import BaseFingerprint
from kdcache.cache.codecs import Codec
from kdcache.cache.encoded import EncodedRecords
from kdcache.cache.facts import ColumnFacts
from kdcache.cache.fidelity import Fidelity
from kdcache.cache.group_index import ColumnIndex
from kdcache.cache.record import Array, RecordLayout
from kdcache.cache.statistics import TokenStatistics, singular_energies, spectrum_step
from kdcache.cache.token_sums import TokenSums, sum_tokens


class ColumnBuilder:
    """Builds the index of one column from its records as they pass; no bytes are written here.

    Args:
        facts: A column of tokens, logits or embeddings.
        statistics: ``full`` or ``light``, as in the group's fingerprint.
        base: Of the base.

    Attributes:
        with_moments: Whether second moments and singular values are kept.
        num_records: Records so far.
    """

    def __init__(self, facts: ColumnFacts, statistics: str, base: BaseFingerprint) -> None:
        self.facts = facts
        self.codec: Codec = facts.make_codec()
        self.layout: RecordLayout = facts.layout()
        self.shape = tuple(facts.shape)
        self.with_moments = keeps_moments(facts, statistics)
        self._statistics = TokenStatistics(self.shape[-1], with_moments=self.with_moments)
        step = spectrum_step(base.source.num_samples, base.shard_samples)
        self._spectrum_every = base.views.num_views * step if self.with_moments else 0
        self._checksums: list[Array] = []
        self._sums: list[Array] = []
        self._squares: list[Array] = []
        self._spectra: list[Array] = []
        self.num_records = 0

    def add(self, decoded: Array, checksums: Array) -> None:
        """Take in the decoded values (B, *shape) and the payload checksums (B,) of the next records."""
        tokens = decoded if len(self.shape) == 2 else decoded[:, None, :]
        self._add(sum_tokens(tokens, with_moments=self.with_moments), tokens[self._with_spectrum()], checksums)

    def add_encoded(self, encoded: EncodedRecords, checksums: Array) -> None:
        """Take in the next records of tokens (B, N, C) as encoded elsewhere, and their payload checksums (B,)."""
        sampled = self.layout.unpack(encoded.payload[self._with_spectrum()])
        self._add(encoded.sums, self.codec.decode(sampled, self.shape), checksums)

    def _with_spectrum(self) -> slice:
        """Of the next records those whose singular values are kept."""
        every = self._spectrum_every
        return slice(-self.num_records % every, None, every) if every else slice(0)

    def _add(self, sums: TokenSums, sampled: Array, checksums: Array) -> None:
        self._statistics.add(sums)
        self._sums.append(sums.column_sums.astype(np.float32))
        self._squares.append(sums.squares)
        self._checksums.append(checksums)
        if self._spectrum_every:
            self._spectra.append(singular_energies(sampled))
        self.num_records += len(checksums)

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


def keeps_moments(facts: ColumnFacts, statistics: str) -> bool:
    """Whether a column's index keeps second moments and singular values; prefix tokens are too few for it."""
    return statistics == "full" and facts.kind == "patch"


def _joined(parts: list[Array], empty_shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    return np.concatenate([np.empty(empty_shape, dtype), *parts])
