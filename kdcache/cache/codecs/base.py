"""What a codec is: a pure map between float32 arrays and the fields of a record."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from kdcache.cache.record import Array, Fields, RecordLayout


class Codec(ABC):
    """Record to bytes and back. Encoding and decoding depend on nothing but the values of one record.

    Attributes:
        name: The word users type and the manifest keeps.
        for_logits: Whether it stores class logits (K,) rather than tokens (N, C); None if it stores both.
    """

    name: ClassVar[str]
    for_logits: ClassVar[bool | None] = None

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that decoding needs, as plain JSON."""
        return {}

    @abstractmethod
    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        """Layout of a record whose decoded shape is (N, C) or (K,).

        Raises: ValueError for a shape this codec cannot store.
        """

    @abstractmethod
    def encode(self, values: Array) -> dict[str, Array]:
        """Fields of a batch of finite float32 values (B, *shape).

        The result may hold Inf where the values exceed the codec's range; the caller refuses those.
        """

    @abstractmethod
    def decode(self, fields: Fields, shape: tuple[int, ...]) -> Array:
        """The float32 values (B, *shape) that a batch of fields stands for."""
