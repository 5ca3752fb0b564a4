"""The codecs by name. A codec is one file of this folder: it is found by being here, in no list.

All pass tests/cache/codecs/conformance.py; test_added_codec.py beside it adds three in one file.
"""

import contextlib
import importlib
import pkgutil
from typing import Any

from kdcache.cache.codecs.base import CODECS, Codec
from kdcache.cache.codecs.packed import Packed, PackedForm, SparseLogits

__all__ = ["CODECS", "Codec", "Packed", "PackedForm", "SparseLogits", "make_codec", "parse_codec", "token_codecs"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def make_codec(name: str, params: dict[str, Any] | None = None) -> Codec:
    """Build a codec from what a manifest keeps.

    Raises: ValueError for an unknown name or wrong parameters.
    """
    codec = _find(name)
    try:
        return codec(**(params or {}))
    except TypeError:
        raise ValueError(f"codec {name} does not take the parameters {params}") from None


def parse_codec(text: str) -> Codec:
    """Build a codec from what a user types: ``fp16`` or ``topk=10``.

    Raises: ValueError.
    """
    name, equals, argument = text.partition("=")
    codec = _find(name)
    try:
        return codec(**codec.parse_argument(argument if equals else None))
    except ValueError as error:
        raise ValueError(f"codec {text!r}: {error}") from None


def token_codecs(shape: tuple[int, ...]) -> dict[str, Codec]:
    """Codecs of features by what users type, a codec with a parameter at a few values of it.

    Args:
        shape: Of a decoded record, (N, C) tokens or a (C,) embedding; codecs that do not store it are left out.
    """
    found: dict[str, Codec] = {}
    for kind in (CODECS[name] for name in sorted(CODECS)):
        for text in () if kind.for_logits else kind.candidates(shape):
            with contextlib.suppress(ValueError):  # it needs a parameter, or does not store this shape
                codec = parse_codec(text)
                codec.layout(shape)
                found[text] = codec
    return found


def _find(name: str) -> type[Codec]:
    if name not in CODECS:
        raise ValueError(f"unknown codec {name!r}; this version knows {', '.join(sorted(CODECS))}")
    return CODECS[name]
