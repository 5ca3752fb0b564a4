"""Training and evaluation of students from a cache."""

import inspect
import sys
from types import ModuleType

from kdcache.train.config import RunConfig
from kdcache.train.evaluate import evaluate
from kdcache.train.loop import train

__all__ = ["RunConfig", "evaluate", "train"]


class _CallablePackage(ModuleType):
    """Calls `train` when called: `kdcache.train` is this package and the public function in one.

    Importing anything of a package sets its name on the parent, which would hide the function.
    """

    __call__ = staticmethod(train)


sys.modules[__name__].__class__ = _CallablePackage
__signature__ = inspect.signature(train)
