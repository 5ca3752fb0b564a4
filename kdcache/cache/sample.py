"""What is kept of every image: who it is, what it is, and exactly which views of it the teacher saw."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from kdcache.cache.facts import Facts, Positive, Sha256
from kdcache.errors import CorruptCacheError
from kdcache.strict_json import dump_json, load_json

UNLABELLED = -1
Integer = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
PixelHash = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]


class _SampleRecord(Facts, frozen=True):
    """``<key>.json`` as it lies in the tar."""

    source_key: str
    label: Annotated[int, msgspec.Meta(ge=UNLABELLED, le=2**31 - 1)]
    sha256: Sha256
    size: tuple[Positive, Positive]
    mode: str
    orientation: Annotated[int, msgspec.Meta(ge=1, le=8)]
    views: list[dict[str, int | str]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of a cache.

    Args:
        key: Safe key; names the members of every column.
        source_key: What the source calls the image.
        label: Class index, or UNLABELLED.
        source_sha256: Hex digest of the source's bytes.
        size: (width, height) of the decoded image in pixels.
        mode: Pillow mode before conversion to RGB.
        orientation: EXIF orientation, 1 to 8; 1 when absent. Of the file, whether or not it is applied.
        views: For each view the integers drawn, in the order of the manifest's view fields.
        pixel_hashes: For each view 32 hex digits of the sha256 over the uint8 pixels (S, S, 3) the teacher saw.
    """

    key: str
    source_key: str
    label: int
    source_sha256: str
    size: tuple[int, int]
    mode: str
    orientation: int
    views: tuple[tuple[int, ...], ...]
    pixel_hashes: tuple[str, ...]

    def to_json(self, view_fields: tuple[str, ...]) -> bytes:
        """The bytes of ``<key>.json``."""
        return dump_json(
            {
                "source_key": self.source_key,
                "label": self.label,
                "sha256": self.source_sha256,
                "size": list(self.size),
                "mode": self.mode,
                "orientation": self.orientation,
                "views": [
                    {**dict(zip(view_fields, view, strict=True)), "pixels": pixels}
                    for view, pixels in zip(self.views, self.pixel_hashes, strict=True)
                ],
            }
        )

    @classmethod
    def from_json(cls, key: str, data: bytes, view_fields: tuple[str, ...], *, where: str) -> "Sample":
        """Read what to_json wrote.

        Raises: CorruptCacheError.
        """
        value = load_json(data, where=where)
        try:
            record = msgspec.convert(value, _SampleRecord)
            views = [{name: view[name] for name in (*view_fields, "pixels")} for view in record.views]
            return cls(
                key=key,
                source_key=record.source_key,
                label=record.label,
                source_sha256=record.sha256,
                size=record.size,
                mode=record.mode,
                orientation=record.orientation,
                views=tuple(
                    msgspec.convert([view[name] for name in view_fields], tuple[Integer, ...]) for view in views
                ),
                pixel_hashes=tuple(msgspec.convert(view["pixels"], PixelHash) for view in views),
            )
        except (KeyError, msgspec.ValidationError) as error:
            raise CorruptCacheError(f"{where}: not the record of a sample ({error}); restore the shard") from None
