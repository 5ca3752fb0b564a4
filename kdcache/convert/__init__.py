"""Caches made from caches, and from files that are none: no teacher runs here, and what is read is never changed."""
