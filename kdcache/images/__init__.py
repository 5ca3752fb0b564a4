"""Image sources and decoding."""

from kdcache.images.decode import DecodedImage, decode_files, decode_image, decode_pixels, decoder_versions
from kdcache.images.jpeg import decode_jpeg, decode_jpegs_into, encode_jpeg
from kdcache.images.open import open_again, open_for_classes, open_source
from kdcache.images.source import Source, SourceImage

__all__ = [
    "DecodedImage",
    "Source",
    "SourceImage",
    "decode_files",
    "decode_image",
    "decode_jpeg",
    "decode_jpegs_into",
    "decode_pixels",
    "decoder_versions",
    "encode_jpeg",
    "open_again",
    "open_for_classes",
    "open_source",
]
