"""What the fields of a record mean, as data: enough to decode them without code of the codec."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One stored number a decoded value: ``values * scale + shift``, each step rounded to float32.

    Args:
        values: The field of the stored numbers, of the decoded shape (N, C) or (K,).
        torch_dtype: torch's name of the number whose bits the field holds, for example
            ``bfloat16``; None where the field's numpy dtype is that number.
        scale, shift: Fields with one float32 a token, (N,); None for a codec without.
    """

    values: str = "values"
    torch_dtype: str | None = None
    scale: str | None = None
    shift: str | None = None


@dataclass(frozen=True, kw_only=True)
class SparseLogits:
    """The logits of some classes, and one logit for each of the others; decoding only copies.

    Args:
        index: The field of the kept classes, integers (k,).
        values: The field of their logits, (k,).
        other: The field of the logit that every other class gets, a scalar.
    """

    index: str = "index"
    values: str = "values"
    other: str = "other"


PackedForm = Packed | SparseLogits
