"""The teacher pass on a Ray cluster, where shards go to whoever is free."""

from kdcache.teacher.ray.cluster import RayCluster
from kdcache.teacher.ray.driver import extract_on_ray

__all__ = ["RayCluster", "extract_on_ray"]
