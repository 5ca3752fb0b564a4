"""Training and evaluation of students from a cache."""

from kdcache.train.config import RunConfig
from kdcache.train.evaluate import evaluate
from kdcache.train.loop import train

__all__ = ["RunConfig", "evaluate", "train"]
