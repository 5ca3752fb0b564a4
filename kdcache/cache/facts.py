"""What a manifest is made of: strict records of images, views, teachers, columns and files."""

import hashlib
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import xxhash

from kdcache.cache.codecs import CODECS, Codec, make_codec
from kdcache.cache.record import RecordLayout
from kdcache.durable import NewFile, file_pieces
from kdcache.errors import CacheMismatchError, Remedy
from kdcache.pixel_rule import Exif, PixelRule

# What a column holds: tokens of patches or in front of them, class logits, the pooled feature in front of the
# classifier, or the pixels of the views themselves.
ColumnKind = Literal["patch", "prefix", "logits", "embedding", "pixels"]
RAW, JPEG = "raw", "jpeg"
# The weights of a teacher that nobody here has run.
IMPORTED = "imported"


# JSON has integers of any size; beyond 2**53 other readers lose digits.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Channels = Annotated[list[float], msgspec.Meta(min_length=3, max_length=3)]
Deviations = Annotated[list[Annotated[float, msgspec.Meta(gt=0)]], msgspec.Meta(min_length=3, max_length=3)]
MAX_VIEWS = 100
_MAX_RECORD_VALUES = 2**31
_RECORD_AXES = {"patch": 2, "prefix": 2, "logits": 1, "embedding": 1, "pixels": 3}


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the parts of a manifest: strict types and ranges, no unknown fields."""

    def check(self, where: str) -> None:
        """Refuse parts that contradict each other; called on everything that is read.

        Args:
            where: The file, for messages.

        Raises: ValueError, or a KdcacheError that says more.
        """


class SubsetFacts(Facts, frozen=True):
    """A few-shot subset: `per_class` images (``5``) or a fraction (``1%``) of every class, drawn with `seed`."""

    per_class: str
    seed: int


class SourceFacts(Facts, frozen=True, omit_defaults=True):
    """Which images. `keys_sha256` is over the source keys in the order of the cache, `labels_sha256` over their labels.

    `subset` is None where they are not drawn by class. `rules` are settings of the source's keys other than the usual.
    """

    kind: str
    subset: SubsetFacts | None
    num_samples: Count
    keys_sha256: Sha256
    labels_sha256: Sha256
    num_classes: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    class_names: list[str]
    rules: dict[str, str] = {}

    def is_part_of(self, num_classes: int) -> bool:
        """Whether labels without names reach so far that they can only count the K classes of a teacher.

        Args:
            num_classes: K, more than the labels have; a sample of ImageNet has 999 of its 1,000.
        """
        return not self.class_names and self.num_classes < num_classes < 2 * self.num_classes


class ViewFacts(Facts, frozen=True, omit_defaults=True):
    """How views were drawn and replayed.

    `fields` names the integers of a view, `size` is S of the (S, S, 3) pixels. `mean` and `std` are those of the first
    teacher; students are fed with them. `jpeg_quality` is 0, or the quality of the JPEG that every view went through
    before anyone saw it. `exif` is ignore, or apply where images were turned upright; `alpha` the colour behind
    transparent pixels, empty where their alpha was dropped; neither is written where it is timm's way.
    """

    recipe: str
    seed: int
    num_views: Annotated[int, msgspec.Meta(ge=1, le=MAX_VIEWS)]
    size: Annotated[int, msgspec.Meta(ge=1, le=2**14)]
    interpolation: str
    fields: Annotated[list[str], msgspec.Meta(min_length=1, max_length=64)]
    params: dict[str, Any]
    mean: Channels
    std: Deviations
    jpeg_quality: Annotated[int, msgspec.Meta(ge=0, le=100)]
    exif: Exif = "ignore"
    alpha: Annotated[str, msgspec.Meta(pattern=r"\A(#[0-9a-f]{6})?\Z")] = ""

    @property
    def pixel_rule(self) -> PixelRule:
        """How an image of these views becomes pixels."""
        return PixelRule(self.exif, self.alpha)


class TeacherFacts(Facts, frozen=True):
    """Which teacher, and where it ran.

    `num_blocks` is the number of outputs that timm's `forward_intermediates` offers for it, so that a reader can
    resolve ``blocks.-1`` without building it. `weights` is hub, file or random; `weights_sha256` is over the names and
    bytes of its tensors. For features that another program made `weights` is imported, and the sha256 is over the names
    and sizes of their files. `cpu_threads` is 0 on an accelerator; on a CPU the last bits of a forward depend on it.
    `mean` and `std` normalise its input.
    """

    name: str
    kwargs: dict[str, Any]
    pretrained_cfg: dict[str, Any]
    num_blocks: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    weights: str
    weights_sha256: str
    precision: str
    device: str
    cpu_threads: Count
    mean: Channels
    std: Deviations


class CodecTrial(Facts, frozen=True):
    """A codec that was tried: bytes of a record, and the error (`decisive_error`); None where it cannot hold them."""

    codec: str
    stride_bytes: Count
    error: Annotated[float, msgspec.Meta(ge=0)] | None


class CodecChoice(Facts, frozen=True):
    """How the codec of a column was chosen: tried on `num_views` views, to lose at most `max_error`; smallest first."""

    max_error: Annotated[float, msgspec.Meta(gt=0)]
    num_views: Positive
    trials: list[CodecTrial]


class ColumnFacts(Facts, frozen=True, omit_defaults=True):
    """One tap under one codec, or stored pixels (tap ``pixels``, codec ``raw`` or ``jpeg``).

    `grid` is (rows, columns) of patch tokens, empty for other kinds. `stride_bytes` is 0 where records differ in size.
    `choice` is None where the codec was named.
    """

    name: str
    tap: str
    kind: ColumnKind
    codec: str
    params: dict[str, Any]
    shape: Annotated[list[Positive], msgspec.Meta(min_length=1, max_length=3)]
    grid: Annotated[list[Positive], msgspec.Meta(max_length=2)]
    stride_bytes: Count
    choice: CodecChoice | None = None

    def check(self, where: str) -> None:
        """See Facts. Raises: CacheMismatchError for a codec that this version does not know."""
        if math.prod(self.shape) > _MAX_RECORD_VALUES or len(self.shape) != _RECORD_AXES[self.kind]:
            raise ValueError(f"column {self.name}: a record of kind {self.kind} cannot have shape {self.shape}")
        if self.grid and math.prod(self.grid) != self.shape[0]:
            raise ValueError(f"column {self.name}: a grid of {self.grid} is not {self.shape[0]} tokens")
        known = (RAW, JPEG) if self.kind == "pixels" else tuple(CODECS)
        if self.codec not in known:
            raise CacheMismatchError(
                f"{where}: column {self.name} has codec {self.codec!r}, this kdcache reads {', '.join(known)}",
                remedy=Remedy.UPDATE,
            )
        try:
            stride = 0 if self.codec == JPEG else self.layout().stride_bytes
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"column {self.name}: {error}") from None
        if self.stride_bytes != stride:
            raise ValueError(
                f"column {self.name}: its records take {stride} bytes, stride_bytes is {self.stride_bytes}"
            )

    def make_codec(self) -> Codec:
        """The codec that wrote this column; stored pixels have none."""
        return make_codec(self.codec, self.params)

    def layout(self) -> RecordLayout:
        """Bytes of one record; JPEG records have no common layout."""
        if self.kind == "pixels":
            return RecordLayout.plain("|u1", tuple(self.shape))
        return self.make_codec().layout(tuple(self.shape))


def pixel_column(size: int, *, jpeg_quality: int) -> ColumnFacts:
    """The column of stored pixels: raw ones, or JPEG files where `jpeg_quality` is not 0.

    Args:
        size: S, side of the views in pixels.
        jpeg_quality: 0, or 1 to 100.
    """
    codec = JPEG if jpeg_quality else RAW
    shape = (size, size, 3)
    return ColumnFacts(
        name=codec,
        tap="pixels",
        kind="pixels",
        codec=codec,
        params={"quality": jpeg_quality} if jpeg_quality else {},
        shape=list(shape),
        grid=[],
        stride_bytes=0 if jpeg_quality else RecordLayout.plain("|u1", shape).stride_bytes,
    )


class ConvertedColumn(Facts, frozen=True):
    """The column that one was made from.

    `relative_error` is what that one lost of the teacher's values, as its group's manifest says; None if unknown.
    """

    column: str
    codec: str
    relative_error: Annotated[float, msgspec.Meta(ge=0)] | None


class ConvertedFacts(Facts, frozen=True):
    """The group whose decoded values a group holds in other codecs: its name, its manifest, and by column its own."""

    group: str
    manifest: Sha256
    columns: dict[str, ConvertedColumn]


class FileFacts(Facts, frozen=True):
    """Identity of one file: sha256, XXH3 (64 bits) for checks while training, size."""

    sha256: Sha256
    xxh3: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]
    size_bytes: Count

    @classmethod
    def of(cls, file: NewFile) -> "FileFacts":
        """Of what was written to a file."""
        return cls(sha256=file.sha256, xxh3=file.xxh3, size_bytes=file.size_bytes)

    @classmethod
    def read(cls, path: Path) -> "FileFacts":
        """Of a file on disk."""
        sha256, xxh3, size_bytes = hashlib.sha256(), xxhash.xxh3_64(), 0
        for piece in file_pieces(path):
            sha256.update(piece)
            xxh3.update(piece)
            size_bytes += len(piece)
        return cls(sha256=sha256.hexdigest(), xxh3=xxh3.hexdigest(), size_bytes=size_bytes)


class ColumnSummary(Facts, frozen=True):
    """Fidelity of the codec on this data (empty if unknown) and the range of the decoded values."""

    fidelity: dict[str, float]
    minimum: float
    maximum: float
    rms: float
    num_tokens: Count
    num_zero_tokens: Count
