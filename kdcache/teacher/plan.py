"""From what was asked to fingerprints: which views, which columns, of which teacher."""

import sys
from collections.abc import Callable
from typing import Any, cast

import msgspec
import numpy as np
import timm
import torch

import kdcache
from kdcache.cache.base import BaseFingerprint
from kdcache.cache.codecs import Codec, parse_codec
from kdcache.cache.facts import CodecChoice, ColumnFacts, ViewFacts, pixel_column
from kdcache.cache.group import GroupFingerprint
from kdcache.cache.manifest import FORMAT_VERSION, fingerprint_digest
from kdcache.cache.paths import PIXELS, RESERVED_NAMES, is_safe_name
from kdcache.errors import ModelError, UsageError
from kdcache.images import decoder_versions
from kdcache.models import Tap, parse_tap
from kdcache.pixel_rule import Exif
from kdcache.teacher.config import AUTO, DEFAULT_TAPS, ExtractConfig
from kdcache.teacher.model import TapFacts, Teacher
from kdcache.teacher.source_plan import SourcePlan
from kdcache.views import AUGMENT_INTERPOLATIONS, INTERPOLATIONS, RECIPES, VIEW_FIELDS, ViewRecipe

# The codec of a tap for which it is to be chosen, and how it was.
Choose = Callable[[TapFacts], tuple[Codec, CodecChoice]]


def plan_recipe(config: ExtractConfig, teacher: Teacher) -> ViewRecipe:
    """The view recipe with the teacher's evaluation settings and the user's overrides.

    Raises: ModelError for an evaluation transform that is not replayed here, UsageError for unknown parameters.
    """
    settings = teacher.data_config
    mode = settings.get("crop_mode") or "center"
    if config.view_recipe == "eval" and mode not in ("center", "squash"):
        raise ModelError(
            f"{config.teacher} is evaluated with crop mode {mode!r}, which the recipe eval does not replay"
        )
    values: dict[str, Any] = {"name": config.view_recipe, "size": teacher.image_size}
    if config.view_recipe == "eval":
        values |= {"crop_pct": settings["crop_pct"], "squash": mode == "squash"}
    known = RECIPES[config.view_recipe]
    if unknown := [name for name in config.view_params if name not in known]:
        raise UsageError(
            f"view parameters {unknown} do not exist for recipe {config.view_recipe}; there are {', '.join(known)}"
        )
    try:
        return msgspec.convert({**values, **config.view_params}, ViewRecipe, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"view parameters {config.view_params}: {error}") from None


def plan_columns(config: ExtractConfig, teacher: Teacher, choose: Choose | None = None) -> list[ColumnFacts]:
    """The columns asked for, with the shapes this teacher gives.

    Args:
        config: What was asked.
        teacher: Whose taps are set here.
        choose: For taps of codec ``auto``; None takes fp16 for them, which an estimate may.

    Raises: TapError, UsageError for a codec that does not exist or does not fit the tap.
    """
    taps = config.taps or (DEFAULT_TAPS if teacher.has_classifier else DEFAULT_TAPS[:1])
    asked = [_parse_column(text, config.codec) for text in taps]
    columns: list[ColumnFacts] = []
    for (tap, named), fact in zip(asked, teacher.set_taps([tap for tap, _ in asked]), strict=True):
        codec, choice = (named, None) if named is not None else (choose or _usual)(fact)
        try:
            stride = codec.layout(fact.shape).stride_bytes
        except ValueError as error:
            raise UsageError(f"tap {tap}: {error}") from None
        columns.append(_column(fact, codec, stride, choice))
    names = [column.name for column in columns]
    if len(set(names)) != len(names):
        raise UsageError(f"a tap is asked for twice with the same codec: {', '.join(names)}")
    return columns


def base_fingerprint(
    config: ExtractConfig, teacher: Teacher, source: SourcePlan, recipe: ViewRecipe
) -> BaseFingerprint:
    """Everything that decides the bytes of the base.

    Raises: UsageError for a split or interpolation that cannot be used.
    """
    if not is_safe_name(config.split) or config.split in RESERVED_NAMES:
        raise UsageError(f"split {config.split!r}: use lower-case letters, digits and '-'")
    # DeiT's filter is a part of its augmentation, whatever its teacher is evaluated with.
    usual = "bicubic" if recipe.name == "deit" else teacher.data_config["interpolation"]
    interpolation = config.interpolation or usual
    known = AUGMENT_INTERPOLATIONS if recipe.name == "deit" else INTERPOLATIONS
    if interpolation not in known:
        raise UsageError(
            f"interpolation for recipe {recipe.name} must be one of {', '.join(known)}, got {interpolation!r}"
        )
    views = ViewFacts(
        recipe=recipe.name,
        seed=config.seed,
        num_views=config.views,
        size=recipe.size,
        interpolation=interpolation,
        fields=list(VIEW_FIELDS),
        params={name: list(each) if isinstance(each, tuple) else each for name, each in recipe.params.items()},
        mean=teacher.facts.mean,
        std=teacher.facts.std,
        jpeg_quality=config.jpeg_quality,
        # A default is left out of the plan, and msgspec knows it by identity: words that were typed or sent are equal.
        exif=cast(Exif, sys.intern(config.exif)),
        alpha=config.alpha,
    )
    return BaseFingerprint(
        format_version=FORMAT_VERSION,
        split=config.split,
        order=config.order,
        images=config.images,
        shard_samples=config.shard_samples,
        source=source.facts(),
        views=views,
        versions={"kdcache": kdcache.__version__, **decoder_versions()},
    )


def group_fingerprints(
    config: ExtractConfig, base: BaseFingerprint, teacher: Teacher | None, choose: Choose | None = None
) -> dict[str, GroupFingerprint]:
    """Everything that decides the bytes of the groups that a pass writes, by name.

    Args:
        config: What was asked.
        base: The base that they belong to.
        teacher: None where only pixels are stored.
        choose: As in `plan_columns`.

    Raises: TapError, UsageError.
    """
    digest = fingerprint_digest(base)
    groups: dict[str, GroupFingerprint] = {}
    if teacher is not None:
        groups[config.group_name] = GroupFingerprint(
            format_version=FORMAT_VERSION,
            base=digest,
            teacher=teacher.facts,
            batch_size=config.batch_size,
            statistics=config.statistics,
            columns=plan_columns(config, teacher, choose),
            versions={
                "kdcache": kdcache.__version__,
                "numpy": np.__version__,
                "timm": timm.__version__,
                "torch": str(torch.__version__),
            },
        )
    if config.pixels != "replay":
        groups[PIXELS] = GroupFingerprint(
            format_version=FORMAT_VERSION,
            base=digest,
            teacher=None,
            batch_size=1,  # decides no byte of them
            statistics="light",
            columns=[pixel_column(base.views.size, jpeg_quality=config.jpeg_quality)],
            versions={"kdcache": kdcache.__version__},
        )
    return groups


def column_name(tap: str, codec: Codec) -> str:
    """``blocks-23-patch-int8``, ``head-logits-topk10``."""
    suffix = "".join(str(value) for value in codec.params.values())
    return f"{tap}-{codec.name}{suffix}".replace("/", "-").replace(".", "-")


def _usual(tap: TapFacts) -> tuple[Codec, CodecChoice | None]:
    return parse_codec("fp16"), None


def _parse_column(text: str, default_codec: str) -> tuple[Tap, Codec | None]:
    """A tap and its codec, None for one that is to be chosen."""
    name, colon, codec = text.partition(":")
    tap = parse_tap(name)
    if not colon:
        codec = "fp16" if tap.block is None else default_codec
    if codec == AUTO:
        if tap.kind == "logits":
            raise UsageError(f"tap {text}: codec {AUTO} chooses for features; logits are stored as fp16, fp32 or topk")
        return tap, None
    try:
        made = parse_codec(codec)
    except ValueError as error:
        raise UsageError(f"tap {text}: {error}") from None
    if made.for_logits is not None and made.for_logits != (tap.kind == "logits"):
        raise UsageError(f"tap {text}: codec {made.name} stores {'logits' if made.for_logits else 'features'} only")
    return tap, made


def _column(fact: TapFacts, codec: Codec, stride: int, choice: CodecChoice | None) -> ColumnFacts:
    kind = fact.tap.kind
    assert kind != "change", "set_taps refuses it"
    return ColumnFacts(
        name=column_name(str(fact.tap), codec),
        tap=str(fact.tap),
        kind=kind,
        codec=codec.name,
        params=codec.params,
        shape=list(fact.shape),
        grid=list(fact.grid),
        stride_bytes=stride,
        choice=choice,
    )
