"""The codecs by name, one file each; all pass tests/cache/codecs/conformance.py."""

from typing import Any

from kdcache.cache.codecs.base import Codec
from kdcache.cache.codecs.bf16 import Bf16
from kdcache.cache.codecs.fp16 import Fp16
from kdcache.cache.codecs.fp32 import Fp32
from kdcache.cache.codecs.int8 import Int8
from kdcache.cache.codecs.topk import TopK

CODECS: dict[str, type[Codec]] = {"fp32": Fp32, "fp16": Fp16, "bf16": Bf16, "int8": Int8, "topk": TopK}

__all__ = ["CODECS", "Codec", "make_codec", "parse_codec"]


def make_codec(name: str, params: dict[str, Any] | None = None) -> Codec:
    """Build a codec from what a manifest keeps.

    Raises: ValueError for an unknown name or wrong parameters.
    """
    if name not in CODECS:
        raise ValueError(f"unknown codec {name!r}; this version knows {', '.join(CODECS)}")
    try:
        return CODECS[name](**(params or {}))
    except TypeError:
        raise ValueError(f"codec {name} does not take the parameters {params}") from None


def parse_codec(text: str) -> Codec:
    """Build a codec from what a user types: ``fp16`` or ``topk=10``.

    Raises: ValueError.
    """
    name, equals, argument = text.partition("=")
    if name == "topk":
        if not argument.isdecimal():
            raise ValueError(f"codec {text!r}: topk needs the number of logits to keep, for example topk=10")
        return make_codec(name, {"k": int(argument)})
    if equals:
        raise ValueError(f"codec {text!r}: {name} takes no parameter")
    return make_codec(name)
