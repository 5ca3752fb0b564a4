"""Training and evaluation of students from a cache."""

import inspect
import sys
from types import ModuleType

from kdcache.train.config import RunConfig
from kdcache.train.evaluate import evaluate
from kdcache.train.loop import train

__all__ = ["RunConfig", "evaluate", "train"]


class _CallablePackage(ModuleType):
    """`kdcache.train` is this package as soon as anything of it is imported, and the public function of that name."""

    __call__ = staticmethod(train)


sys.modules[__name__].__class__ = _CallablePackage
__signature__ = inspect.signature(train)
