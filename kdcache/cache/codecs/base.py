"""What a codec is: a pure map between float32 arrays and fields whose meaning it declares as data."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from kdcache.cache.codecs.packed import PackedForm, SparseLogits
from kdcache.cache.record import Array, Fields, RecordLayout

DeviceForm = Literal["cast", "int8", "fp8", "fields"]
# Every codec that was defined, by name; a class statement is all it takes.
CODECS: dict[str, type["Codec"]] = {}


class Codec(ABC):
    """Maps a record to bytes and back, depending on nothing but the values of that record.

    A subclass with a `name` is registered under it.

    Attributes:
        name: The word users type and the manifest keeps: lower-case letters and digits.
        packed: What the fields mean. The stream, the losses and `decode` read it; none of them
            knows a codec's name. None for fields that only the codec's own `unpack` understands: a
            loss then gets decoded targets.
        for_logits: Whether it stores class logits (K,) rather than features, (N, C) tokens or a (C,) embedding;
            None for both.
        auto_share: Part of the allowed error that it may lose on the first views to be chosen by ``auto``; other images
            lose more, and the whole is held to the allowed error.
        device_form: How the teacher's device gives tokens the very bytes of `encode`: by converting them to the stored
            number, ``cast``, to 8 bits with one scale a token, ``int8`` or ``fp8``, or by `encode_fields`, ``fields``;
            None where the writer encodes.
    """

    name: ClassVar[str]
    packed: ClassVar[PackedForm | None] = None
    for_logits: ClassVar[bool | None] = None
    auto_share: ClassVar[float] = 0.9
    device_form: ClassVar[DeviceForm | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            return
        held = CODECS.get(cls.name)
        if held is not None and (held.__module__, held.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"codec {cls.name!r} is defined twice, in {held.__module__} and in {cls.__module__}")
        CODECS[cls.name] = cls

    @classmethod
    def parse_argument(cls, argument: str | None) -> dict[str, Any]:
        """Parameters of the constructor from what a user typed.

        Args:
            argument: The text after ``=`` in ``name=argument``; None without one.

        Raises: ValueError for text that this codec does not take.
        """
        if argument is not None:
            raise ValueError(f"{cls.name} takes no parameter")
        return {}

    @classmethod
    def candidates(cls, shape: tuple[int, ...]) -> tuple[str, ...]:
        """What the codec ``auto`` tries for values of this shape, as `parse_codec` takes it.

        A codec that needs parameters names some, or nothing: by default it is not tried.
        """
        return (cls.name,)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that decoding needs, as plain JSON."""
        return {}

    @abstractmethod
    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        """Layout of a record whose decoded shape is (N, C), (K,) or (C,).

        Raises: ValueError for a shape this codec cannot store.
        """

    @abstractmethod
    def encode(self, values: Array) -> dict[str, Array]:
        """Fields of a batch of finite float32 values (B, *shape).

        The result may hold Inf where the values exceed the codec's range; the caller refuses those.
        """

    def encode_fields(self, values: Any, xp: Any) -> dict[str, Any]:
        """What `encode` gives, written once for numpy and torch, where `device_form` is ``fields``.

        Steps that both round in one way; sums whose order differs are taken in float64 and rounded to far fewer digits.

        Args:
            values: (B, N, C) float32 of that library.
            xp: The library, ``numpy`` or ``torch``.
        """
        raise NotImplementedError(f"codec {self.name} encodes with numpy alone")

    def widen(self, stored: Array) -> Array:
        """Stored numbers as float32, exactly; overridden where numpy has no name for them."""
        return stored.astype(np.float32)

    def unpack(self, fields: Mapping[str, Any], shape: tuple[int, ...], xp: Any) -> Any:
        """Decode a batch of fields where `packed` is None; written once for numpy and torch.

        Only functions that both libraries have under one name, and only steps whose result is exact
        or rounded in one way, so that both give the same bits.

        Args:
            fields: numpy arrays or tensors, each (B, *field.shape).
            shape: Of a decoded record.
            xp: The library of the fields, ``numpy`` or ``torch``.

        Returns: (B, *shape) float32, of that library and on the fields' device.
        """
        raise NotImplementedError(f"codec {self.name} has neither `packed` nor `unpack`")

    def decode(self, fields: Fields, shape: tuple[int, ...]) -> Array:
        """The float32 values (B, *shape) that a batch of fields stands for, by the declaration or `unpack`.

        Equal to the bit to what the stream decodes on a device: conversions, products and sums
        alone, each rounded once. A logarithm differs between libraries in its last bit, so one is
        computed by `encode` and stored.
        """
        packed = self.packed
        if packed is None:
            return self.unpack(fields, shape, np)
        if isinstance(packed, SparseLogits):
            logits = np.repeat(fields[packed.other].astype(np.float32)[:, None], shape[0], axis=1)
            np.put_along_axis(logits, fields[packed.index].astype(np.int64), self.widen(fields[packed.values]), axis=-1)
            return logits
        decoded = self.widen(fields[packed.values])
        if packed.scale is not None:
            decoded = decoded * fields[packed.scale].astype(np.float32)[..., None]
        if packed.shift is not None:
            decoded = decoded + fields[packed.shift].astype(np.float32)[..., None]
        return decoded


def channel_means(values: Any, xp: Any) -> Any:
    """Means over a record's tokens, (B, C) float16 of (B, N, C), to the same bits by numpy and torch.

    Args:
        values: float32 of the library `xp`, ``numpy`` or ``torch``.
    """
    return half(xp.mean(values, axis=1, dtype=xp.float64), xp)


def half(values: Any, xp: Any) -> Any:
    """Numbers of float64 or float32 as float16, rounded by way of float32, as torch does."""
    return xp.asarray(xp.asarray(values, dtype=xp.float32), dtype=xp.float16)
