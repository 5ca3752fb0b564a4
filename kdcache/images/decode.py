"""Image bytes to RGB pixels, with every odd file either handled in a stated way or refused with a reason."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageFile, features
from PIL import __version__ as pillow_version

from kdcache.errors import BadImageError
from kdcache.images import jpeg
from kdcache.images.jpeg import MAX_PIXELS, decode_jpeg, decode_jpegs
from kdcache.packed import PackedFiles
from kdcache.pixel_rule import AS_STORED, PixelRule

# An allow-list, because Pillow sniffs over forty formats and starts Ghostscript for one of them.
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]
EXTENSIONS = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm"]
if "avif" in features.get_supported_modules():
    FORMATS, EXTENSIONS = [*FORMATS, "AVIF"], [*EXTENSIONS, "avif"]
if "jpg_2000" in features.get_supported_codecs():
    FORMATS, EXTENSIONS = [*FORMATS, "JPEG2000"], [*EXTENSIONS, "jp2"]
# One spelling of each, the one that other readers of WebDataset tars look for.
_SPELLINGS = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tiff": "tif"}
# Of a foreign file, in the reason why it is bad.
_SHOWN_BYTES = 12
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
# What shows an image as its EXIF orientation wants it, as numpy: mirrored along an axis, turned by quarters.
_UPRIGHT = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


def colour_code(text: str) -> str:
    """``#rrggbb`` of a colour as Pillow and CSS name it: ``white``, ``#fff``, ``rgb(124, 116, 104)``.

    Raises: ValueError for what is no colour, or is a transparent one.
    """
    try:
        channels = ImageColor.getrgb(text)
    except ValueError:
        channels = ()
    if len(channels) != 3:
        raise ValueError(f"wanted a colour such as white, #ffffff or rgb(124,116,104), got {text!r}")
    return "#{:02x}{:02x}{:02x}".format(*channels)


@dataclass(frozen=True)
class DecodedImage:
    """One image in memory.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        mode: Pillow's mode before conversion.
        orientation: EXIF orientation 1 to 8, 1 when absent.
    """

    pixels: np.ndarray
    mode: str
    orientation: int

    @property
    def rgb(self) -> Image.Image:
        """The pixels as a Pillow image, a copy."""
        return Image.fromarray(self.pixels)


def decoder_versions() -> dict[str, str]:
    """Name and version of each library that decodes images here; Pillow's libjpeg-turbo only if it is called alone."""
    versions = {"pillow": pillow_version}
    if jpeg.can_decode():
        versions["libjpeg-turbo"] = features.version_feature("libjpeg_turbo") or "unknown"
    return versions


def decode_pixels(data: bytes, rule: PixelRule = AS_STORED) -> np.ndarray:
    """The pixels of an image of which everything else is known: `decode_image` without a look at its header.

    Args:
        data: The file's bytes.
        rule: As in `decode_image`.

    Returns: (H, W, 3) uint8, the same as `decode_image` gives.
    Raises: BadImageError as `decode_image` does.
    """
    # A JPEG has no alpha channel.
    pixels = decode_jpeg(data) if rule.exif == "ignore" else None
    return decode_image(data, rule).pixels if pixels is None else pixels


def decode_files(files: PackedFiles, rule: PixelRule = AS_STORED) -> list[np.ndarray | None]:
    """The pixels of images, decoded in one call without the interpreter lock where they are JPEGs.

    Args:
        files: JPEGs or others.
        rule: As in `decode_image`.

    Returns: (H, W, 3) uint8 each, as `decode_pixels` gives them; None for a file about which it has to be asked.
    """
    return decode_jpegs(files) if rule.exif == "ignore" else [None] * len(files)


def image_extension(name: str) -> str | None:
    """The extension under which an image is kept, or None for a name that is no image's."""
    extension = name.rpartition(".")[2].lower()
    return _SPELLINGS.get(extension, extension) if extension in EXTENSIONS else None


def decode_image(data: bytes, rule: PixelRule = AS_STORED) -> DecodedImage:
    """Decode one image.

    JPEGs are decoded by the extension where it gives Pillow's pixels, everything else and every doubt by Pillow.
    Conversions: grey, palette and CMYK to RGB; first frame of an animation; 16-bit grey scaled by 1/257.

    Args:
        data: The file's bytes.
        rule: What becomes of EXIF orientation and alpha.

    Raises: BadImageError with the reason, for empty, truncated or foreign bytes, for formats outside FORMATS, for
        more than MAX_PIXELS pixels (read from the header, before anything is decoded) and for float or 32-bit pixels.
    """
    if not data:
        raise BadImageError("empty file")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ValueError(
            "ImageFile.LOAD_TRUNCATED_IMAGES is set: truncated images would be filled with grey in silence"
        )
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise BadImageError(f"more than {MAX_PIXELS} pixels") from None
    except Exception:  # Pillow's parsers raise whatever the damage made them trip over
        raise BadImageError(f"not an image of a known format; begins with {data[:_SHOWN_BYTES]!r}") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{width} x {height} pixels, more than {MAX_PIXELS}")
    if width * height == 0:
        raise BadImageError(f"{width} x {height} pixels")
    orientation = _orientation(image)
    try:
        pixels = _to_pixels(image, data, rule.alpha)
        if rule.exif == "apply" and orientation in _UPRIGHT:
            pixels = np.ascontiguousarray(_UPRIGHT[orientation](pixels))
        return DecodedImage(pixels, image.mode, orientation)
    except BadImageError:
        raise
    except Exception:
        # Pillow's words differ between its versions and may hold an address, and the ledger is hashed.
        raise BadImageError(f"damaged or truncated {image.format} file of {len(data)} bytes") from None


def _orientation(image: Image.Image) -> int:
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1) or 1)
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _to_pixels(image: Image.Image, data: bytes, behind: str) -> np.ndarray:
    if image.mode in ("RGB", "L") and (pixels := decode_jpeg(data)) is not None:
        return pixels
    image.load()
    if image.mode in _SIXTEEN_BIT_MODES or (image.mode == "I" and image.format == "PNG"):
        # Pillow would clip 16 bits at 255; 65,535 / 257 is 255 exactly. Before 11.3 it reads 16-bit PNG as mode I.
        grey = (np.asarray(image).astype(np.uint32) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise BadImageError(f"pixels of mode {image.mode} have no known range")
    if behind and image.has_transparency_data:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, behind), seen)
    return np.asarray(image.convert("RGB"))
