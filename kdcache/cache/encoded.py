"""Records of a column that were encoded where the teacher runs, with what the index needs to know of them."""

from dataclasses import dataclass

from kdcache.cache.record import Array
from kdcache.cache.statistics import Fidelity
from kdcache.cache.token_sums import TokenSums


@dataclass(frozen=True)
class EncodedRecords:
    """B records of one column; all values finite, before and after the codec.

    Args:
        payload: (B, payload_bytes) uint8, the bytes of the column's layout.
        sums: Over the decoded tokens.
        fidelity: Of the codec on these records.
    """

    payload: Array
    sums: TokenSums
    fidelity: Fidelity
