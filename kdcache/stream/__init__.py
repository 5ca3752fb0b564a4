"""Streaming a cache: order, loaders, datasets.

Nothing is re-exported here, so that `kdcache.stream.order` stays usable where torch is not installed.
"""
