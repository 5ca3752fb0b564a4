"""Caches and images on object storage: places, whole files through a bounded staging folder, create-only uploads."""

from kdcache.remote.folder import Content, Entry, RemoteFolder
from kdcache.remote.staging import Lease, Staging
from kdcache.remote.url import Location, RemoteUrl, is_url, location

__all__ = ["Content", "Entry", "Lease", "Location", "RemoteFolder", "RemoteUrl", "Staging", "is_url", "location"]
