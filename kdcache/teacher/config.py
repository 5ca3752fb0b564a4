"""What a teacher pass is asked to do."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from kdcache.cache.paths import PIXELS, RESERVED_NAMES, is_safe_name, safe_name
from kdcache.images.classes import ClassOrder, ClassRule
from kdcache.images.decode import colour_code
from kdcache.images.rules import KeyPrefix, SourceRules, TarKeys
from kdcache.per_class import check_subset
from kdcache.pixel_rule import Exif
from kdcache.remote import Location
from kdcache.views import RECIPES

Order = Literal["shuffle", "source"]
Images = Literal["embed", "reference"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Statistics = Literal["full", "light"]

# What the base fixes: a pass that adds to one takes these from its manifest.
BASE_SETTINGS = (
    "views",
    "view_recipe",
    "view_params",
    "image_size",
    "interpolation",
    "exif",
    "alpha_color",
    "limit",
    "per_class",
    "per_class_seed",
    "class_order",
    "class_map",
    "tar_keys",
    "image_member",
    "label_member",
    "key_prefix",
    "labels",
    "order",
    "images",
    "split",
    "shard_samples",
    "max_bad",
)
_PIXELS = re.compile(r"replay|raw|jpeg(?::(\d{1,3}))?")
DEFAULT_TAPS = ("blocks.-1/patch", "head/logits")
# int8 loses about a hundredth; a tenth means that one channel is so large that the others are lost beside it.
DEFAULT_MAX_ERROR = 0.1
_DEFAULT_QUALITY = 95
# In place of a codec's name: the smallest that keeps to `max_error` on the first views.
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """A teacher pass.

    Args:
        out: The cache folder, or its place on object storage.
        data: Folder of class folders, tars or digits; see images.open_source. With `add`, needed only where the base
            refers to its images.
        teacher: a timm name, or one on the hub or of a folder as `kdcache.models.resolve_name` takes it; with `add`,
            None stores pixels alone.
        add: Add a group to a base that is there, on its views; no file of it is changed.
        group: Name of the group; None makes one of the teacher's name.
        pixels: ``replay`` stores none (students decode and cut the images again), ``raw`` the uint8 pixels of every
            view, ``jpeg`` or ``jpeg:QUALITY`` a JPEG file of every view, which teacher and students then both see.
        teacher_weights: ``hub``, ``random``, or a local file or folder as `load_weights` takes it.
        teacher_kwargs: Further arguments of the model.
        teacher_settings: Of timm's configuration of the model, where they are not those of its name (``mean``, ``std``,
            ``input_size``, ...).
        taps: ``TAP`` or ``TAP:CODEC``, for example ``blocks.-1/patch``, ``head/logits:topk=10``; None for the patch
            tokens of the last block, and the logits of a teacher that has a classifier.
        codec: For token taps that name none, or ``auto`` for the smallest that keeps to `max_error` on the first batch.
            Logits and embeddings without a codec are stored as fp16.
        views: K, views of each image.
        view_recipe: ``eval``, ``rrc-flip`` or ``deit``.
        view_params: Overrides of the recipe's; see ViewRecipe.
        image_size: S; None takes the teacher's own.
        interpolation: None takes the teacher's own, and bicubic for ``deit``.
        exif: Of images whose EXIF data want them turned: ``ignore`` as timm does, or ``apply``.
        alpha_color: What shows behind transparent pixels, as Pillow and CSS name colours; None drops the alpha channel.
        seed: Of the views, the order, and random teacher weights.
        class_order: Of class folders: ``natural`` as timm's, or ``sorted`` by code points.
        class_map: File with the names of class folders in the order of the classes, in place of `class_order`.
        tar_keys, image_member, label_member, key_prefix, labels: How tars and labels are read; see SourceRules.
        limit: Images to take; None for all.
        per_class: Images to take of each class: ``5``, or ``1%`` of them; None for all. See kdcache.per_class.
        per_class_seed: Of that draw; None takes `seed`.
        order: ``shuffle`` stores the images in a seeded random order, ``source`` in the source's.
        images: ``embed`` copies each image's bytes into the cache, ``reference`` keeps only their hash.
        split: Word in front of shard names.
        shard_samples: Images in a shard: the unit of work that a crash can lose.
        batch_size: Views in one forward; part of the plan, because it can change the last bits on an accelerator.
        statistics: ``full`` keeps second moments and singular values, ``light`` does not.
        precision: Autocast type; ``auto`` is bf16 on an accelerator and fp32 on a CPU.
        device: auto, cpu, cuda, cuda:1.
        cpu_threads: Threads of a forward on a CPU; part of the plan, because the last bits depend on it. None takes the
            cores of this process, whatever OMP_NUM_THREADS says, so that workers under torchrun agree with one alone.
        threads: Threads that read, decode and cut views; None takes the cores of this process.
        max_bad: Fraction of the images that may be unusable before the run fails.
        max_error: Largest error a codec may have on this data, relative to the spread of the teacher's values around
            their channels' means, and half of the largest of the median channel (of logits, to the probabilities);
            None for `DEFAULT_MAX_ERROR` of tokens and embeddings and any of logits.
        image_timeout_s: Seconds one image may take before it counts as hanging.
        accept_versions: Whether other versions of libraries than a cache was begun with may continue it.
        check_space: Refuse to start when the disk is too small for what is still to be written.
    """

    out: Location
    data: str | None = None
    teacher: str | None = None
    add: bool = False
    group: str | None = None
    pixels: str = "replay"
    teacher_weights: str = "hub"
    teacher_kwargs: dict[str, Any] = field(default_factory=dict)
    teacher_settings: dict[str, Any] = field(default_factory=dict)
    taps: tuple[str, ...] | None = None
    codec: str = "fp16"
    views: int = 1
    view_recipe: str = "eval"
    view_params: dict[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    interpolation: str | None = None
    exif: Exif = "ignore"
    alpha_color: str | None = None
    seed: int = 0
    limit: int | None = None
    per_class: str | None = None
    per_class_seed: int | None = None
    class_order: ClassOrder = "natural"
    class_map: Path | None = None
    tar_keys: TarKeys = "first-dot"
    image_member: str | None = None
    label_member: str | None = None
    key_prefix: KeyPrefix = "none"
    labels: Path | None = None
    order: Order = "shuffle"
    images: Images = "embed"
    split: str = "train"
    shard_samples: int = 512
    batch_size: int = 32
    statistics: Statistics = "full"
    precision: Precision = "auto"
    device: str = "auto"
    cpu_threads: int | None = None
    threads: int | None = None
    max_bad: float = 0.01
    max_error: float | None = None
    image_timeout_s: float = 120.0
    accept_versions: bool = False
    check_space: bool = True

    def __post_init__(self) -> None:
        for name in ("views", "shard_samples", "batch_size", "limit", "threads", "cpu_threads", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, kind in (
            ("order", Order),
            ("images", Images),
            ("precision", Precision),
            ("statistics", Statistics),
            ("class_order", ClassOrder),
            ("exif", Exif),
        ):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
        if self.view_recipe not in RECIPES:
            raise ValueError(f"view recipe must be one of {', '.join(RECIPES)}, got {self.view_recipe!r}")
        if self.view_recipe == "eval" and self.views != 1:
            raise ValueError(f"the recipe eval draws nothing, so {self.views} views would be equal; use views=1")
        if self.views > 100:
            raise ValueError(f"views must be at most 100, got {self.views}")
        if self.taps is not None and not self.taps:
            raise ValueError("at least one tap is needed, for example blocks.-1/patch")
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"max_bad is a fraction between 0 and 1, got {self.max_bad}")
        self._check_parts()

    def _check_parts(self) -> None:
        self._check_images()
        if self.per_class is not None and self.limit is not None:
            raise ValueError(f"limit={self.limit} would make the classes of per_class={self.per_class} uneven; use one")
        match = _PIXELS.fullmatch(self.pixels)
        if match is None or (match[1] and not 1 <= int(match[1]) <= 100):
            raise ValueError(f"pixels must be replay, raw, jpeg or jpeg:QUALITY (1 to 100), got {self.pixels!r}")
        if self.group is not None and (not is_safe_name(self.group) or self.group in (*RESERVED_NAMES, PIXELS)):
            raise ValueError(
                f"group {self.group!r}: use lower-case letters, digits and '-', none of {', '.join(RESERVED_NAMES)}, "
                f"{PIXELS}"
            )
        if not self.add:
            if self.data is None or self.teacher is None:
                raise ValueError("a new cache needs data and a teacher")
            return
        if self.teacher is None and self.pixels == "replay":
            raise ValueError("nothing to add: name a teacher, or pixels=raw")
        if self.jpeg_quality:
            raise ValueError(
                "pixels=jpeg cannot be added: the base's views are what its teacher saw, and JPEG would change them; "
                "add pixels=raw, or extract into another folder"
            )
        defaults = {each.name: each.default for each in fields(self) if each.name != "view_params"}
        if changed := [
            name for name in BASE_SETTINGS if getattr(self, name) != ({} if name == "view_params" else defaults[name])
        ]:
            raise ValueError(f"{', '.join(changed)}: fixed by the base, which adding a group does not change")

    def _check_images(self) -> None:
        check_subset(self.per_class, self.per_class_seed)
        _ = self.source_rules, self.alpha  # check themselves
        for name in ("image_timeout_s", "max_error"):
            value = getattr(self, name)
            # NaN is not above 0 either.
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")

    @property
    def alpha(self) -> str:
        """``#rrggbb`` behind transparent pixels; empty where alpha is dropped."""
        return "" if self.alpha_color is None else colour_code(self.alpha_color)

    @property
    def jpeg_quality(self) -> int:
        """Quality of the JPEG that every view goes through; 0 for none."""
        match = _PIXELS.fullmatch(self.pixels)
        if match is None or not self.pixels.startswith("jpeg"):
            return 0
        return int(match[1] or _DEFAULT_QUALITY)

    @property
    def source_rules(self) -> SourceRules:
        """How the images are read."""
        return SourceRules(
            classes=ClassRule(order=self.class_order, class_map=self.class_map),
            tar_keys=self.tar_keys,
            image_member=self.image_member,
            label_member=self.label_member,
            key_prefix=self.key_prefix,
            labels=self.labels,
        )

    @property
    def group_name(self) -> str:
        """Name of the teacher's group."""
        return self.group or safe_name(self.teacher or PIXELS)
