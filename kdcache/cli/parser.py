"""The parser of every verb: a flag with one value may be given once, lists add up."""

import argparse
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, final


@final
class StoreOnce(argparse.Action):
    """Keeps the value of a flag, and refuses another one: the first would be lost without a word.

    No flag takes a negative number, NaN or infinity, but for seeds.
    """

    _given: Any = None

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """See argparse.Action."""
        if option_string is not None:
            if self._given not in (None, values):
                raise argparse.ArgumentError(self, f"given twice, {self._given} and {values}; give it once")
            self._given = values
        is_number = self.type in (int, float) and "seed" not in self.dest
        if is_number and not 0 <= float(str(values)) < math.inf:
            raise argparse.ArgumentError(self, f"wanted a number of at least 0, got {values}")
        setattr(namespace, self.dest, values)


def verb_parser(verb: str, module: ModuleType) -> argparse.ArgumentParser:
    """The parser of a verb.

    Args:
        verb: Its name.
        module: Declares USAGE, EXAMPLE, its docstring and `add_arguments`.
    """
    parser = argparse.ArgumentParser(
        prog=f"kdcache {verb}",
        usage=f"kdcache {verb} {module.USAGE}",
        description=module.__doc__.strip() if module.__doc__ else None,
        epilog=module.EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Groups share the registry of their parser, so that every flag of every verb is such an action.
    parser.register("action", None, StoreOnce)
    parser.register("action", "store", StoreOnce)
    module.add_arguments(parser)
    return parser
