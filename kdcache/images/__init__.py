"""Image sources and decoding."""

from kdcache.images.decode import DecodedImage, decode_image
from kdcache.images.open import open_source
from kdcache.images.source import Source, SourceImage

__all__ = ["DecodedImage", "Source", "SourceImage", "decode_image", "open_source"]
