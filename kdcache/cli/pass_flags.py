"""The flags of a teacher pass: which images, which teacher, what is kept, which views.

A flag that is not given is left out of the namespace, so that it keeps the default of ExtractConfig.
"""

import argparse
from collections.abc import Mapping
from typing import Any

from kdcache.cli.data_flags import DATA_HELP, add_data, add_rules
from kdcache.cli.text import MODEL_HELP, codec_names
from kdcache.config import parse_pairs


def add_images(parser: argparse.ArgumentParser, *, note: str = "") -> None:
    """Declare the images and how they are read.

    Args:
        parser: Of the verb.
        note: Put behind the help of the data.
    """
    default = argparse.SUPPRESS
    data = parser.add_argument_group("images")
    add_data(data, "--data", help=f"{DATA_HELP}{note}")
    data.add_argument("--limit", type=int, metavar="N", default=default, help="take N images only")
    data.add_argument(
        "--per-class", metavar="N|P%", default=default, help="take N images, or P%% of the images, of every class"
    )
    data.add_argument("--per-class-seed", type=int, metavar="S", default=default, help="of that draw (the seed)")
    add_rules(data)
    data.add_argument(
        "--order", choices=("shuffle", "source"), metavar="O", default=default, help="shuffle or source (shuffle)"
    )
    data.add_argument(
        "--exif", metavar="ignore|apply", default=default, help="turn images as EXIF says? (ignore, as timm does)"
    )
    data.add_argument(
        "--alpha-color",
        metavar="COLOR",
        default=default,
        help="behind transparent pixels (alpha is dropped)",
    )
    data.add_argument("--max-bad", type=float, metavar="F", default=default, help="fraction of unusable images (0.01)")
    data.add_argument("--image-timeout", type=float, metavar="S", default=default, dest="image_timeout_s", help="(120)")


def add_teacher(parser: argparse.ArgumentParser) -> None:
    """Declare the teacher and how it runs."""
    default = argparse.SUPPRESS
    teacher = parser.add_argument_group("teacher")
    teacher.add_argument("--teacher", metavar="NAME", default=default, help=MODEL_HELP)
    teacher.add_argument(
        "--teacher-weights",
        metavar="W",
        default=default,
        help="hub (default), random, or a file (FILE:NAME: one of several sets in it)",
    )
    teacher.add_argument(
        "--teacher-kwargs", action="extend", nargs="+", metavar="K=V", default=[], help="further arguments of the model"
    )
    teacher.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        metavar="P",
        default=default,
        help="autocast type: fp32, bf16, fp16 or auto (auto)",
    )
    teacher.add_argument("--device", default=default, help="auto, cpu, cuda, cuda:1")
    teacher.add_argument("--cpu-threads", type=int, metavar="N", default=default, help="of a forward on a CPU (cores)")
    teacher.add_argument("--batch-size", type=int, metavar="N", default=default, help="views in one forward (32)")


def add_kept(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Declare what is kept of the outputs and of the views. Returns: the group, to which a verb may add."""
    default = argparse.SUPPRESS
    kept = parser.add_argument_group("what is kept")
    kept.add_argument(
        "--tap",
        action="append",
        dest="taps",
        metavar="TAP[:CODEC]",
        default=default,
        help="blocks.N/patch, blocks.N/prefix (N from 0, or negative from the end), head/logits, head/embedding "
        "(the pooled feature); repeat for more (blocks.-1/patch, and head/logits where there is a classifier)",
    )
    names = ", ".join(codec_names())
    kept.add_argument("--codec", default=default, help=f"of token taps without (fp16): {names}, or auto")
    kept.add_argument(
        "--max-error",
        type=float,
        metavar="E",
        default=default,
        help="most that a codec may lose (0.1); auto keeps to it",
    )
    kept.add_argument(
        "--statistics",
        choices=("full", "light"),
        metavar="S",
        default=default,
        help="full, or light without second moments (full)",
    )
    kept.add_argument(
        "--pixels",
        metavar="P",
        default=default,
        help="how students get the views: replay (from the images), raw (uint8, fastest, 3 bytes a pixel), "
        "jpeg or jpeg:QUALITY (small; teacher and students both see it) (replay)",
    )
    return kept


def add_views(parser: argparse.ArgumentParser) -> None:
    """Declare how views are drawn."""
    default = argparse.SUPPRESS
    views = parser.add_argument_group("views")
    views.add_argument("--views", type=int, metavar="K", default=default, help="views of each image (1)")
    views.add_argument(
        "--view-recipe",
        choices=("eval", "rrc-flip", "deit"),
        default=default,
        help="how they are drawn: the teacher's evaluation view, a random resized crop and flip, or these with "
        "RandAugment (rand-m9-mstd0.5-inc1) and random erasing (0.25, pixel), as DeiT trains (eval)",
    )
    views.add_argument(
        "--view-params",
        action="extend",
        nargs="+",
        metavar="K=V",
        default=[],
        help="of eval: crop_pct, squash; of rrc-flip and deit: scale, ratio, flip; of deit: operation, magnitude, "
        "magnitude_std, erase, erase_area, erase_ratio",
    )
    views.add_argument("--image-size", type=int, metavar="S", default=default, help="side of the view (the teacher's)")
    views.add_argument(
        "--interpolation", metavar="F", default=default, help="resize filter (the teacher's; bicubic for deit)"
    )
    views.add_argument("--seed", type=int, default=default, help="of views, order and random weights (0)")


def parsed_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ExtractConfig that these flags give as other types, from a namespace. Raises: UsageError."""
    parsed: dict[str, Any] = {
        "teacher_kwargs": parse_pairs(values["teacher_kwargs"], "--teacher-kwargs"),
        "view_params": parse_pairs(values["view_params"], "--view-params"),
    }
    return parsed | ({"taps": tuple(values["taps"])} if "taps" in values else {})
