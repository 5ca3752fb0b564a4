"""A column of an opened cache: its facts, and the group that holds it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kdcache.cache.codecs import Codec
from kdcache.cache.facts import ColumnFacts, ColumnKind
from kdcache.cache.record import RecordLayout


@dataclass(frozen=True)
class Column:
    """One column of one group.

    Args:
        group: Name of the group.
        facts: As its manifest has them.
    """

    group: str
    facts: ColumnFacts

    @cached_property
    def name(self) -> str:
        """``<group>/<column>``: unique in the cache, and the folder of its shards."""
        return f"{self.group}/{self.facts.name}"

    @property
    def tap(self) -> str:
        """What it records, for example ``blocks.23/patch``."""
        return self.facts.tap

    @property
    def kind(self) -> ColumnKind:
        """Patch, prefix, logits, embedding or pixels."""
        return self.facts.kind

    @property
    def codec(self) -> str:
        """Name of the codec; raw or jpeg for pixels."""
        return self.facts.codec

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the codec."""
        return self.facts.params

    @property
    def shape(self) -> list[int]:
        """Of one decoded record: (N, C), (K,), (C,) or (S, S, 3)."""
        return self.facts.shape

    @property
    def grid(self) -> list[int]:
        """(rows, columns) of patch tokens, else empty."""
        return self.facts.grid

    @property
    def stride_bytes(self) -> int:
        """From one record to the next in a shard; 0 where records differ in size."""
        return self.facts.stride_bytes

    @property
    def label(self) -> str:
        """For messages: ``<group>:<tap> (<codec>)``."""
        return f"{self.group}:{self.tap} ({self.codec})"

    def make_codec(self) -> Codec:
        """The codec that wrote it."""
        return self.facts.make_codec()

    @cached_property
    def _layout(self) -> RecordLayout:
        return self.facts.layout()

    def layout(self) -> RecordLayout:
        """Bytes of one record."""
        return self._layout
