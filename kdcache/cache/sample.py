"""What is kept of every image: who it is, what it is, and exactly which views of it the teacher saw."""

from dataclasses import dataclass
from typing import Any

from kdcache.errors import CorruptCacheError
from kdcache.strict_json import dump_json, load_json

UNLABELLED = -1


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
        orientation: EXIF orientation, 1 to 8; 1 when absent. Not applied (timm ignores it too), only counted.
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
        value: Any = load_json(data, where=where)
        try:
            width, height = value["size"]
            return cls(
                key=key,
                source_key=value["source_key"],
                label=value["label"],
                source_sha256=value["sha256"],
                size=(width, height),
                mode=value["mode"],
                orientation=value["orientation"],
                views=tuple(tuple(view[name] for name in view_fields) for view in value["views"]),
                pixel_hashes=tuple(view["pixels"] for view in value["views"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptCacheError(f"{where}: not the record of a sample ({error!r}); restore the shard") from None
