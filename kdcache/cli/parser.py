"""The parser of every verb: a flag with one value may be given once, lists add up."""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, final

from kdcache.cli.places import local_path
from kdcache.errors import UsageError


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


def output_file(*endings: str) -> Callable[[str], Path]:
    """The type of a flag that names a file to write: one with another ending may be somebody's data."""

    def checked(text: str) -> Path:
        path = local_path(text)
        if path.suffix.lower() not in endings:
            raise argparse.ArgumentTypeError(f"wanted a file that ends in {' or '.join(endings)}, got {text!r}")
        return path

    return checked


def refuse_ignored(values: Mapping[str, Any], *, without: str, given: object) -> None:
    """Refuse flags that mean nothing without another one.

    Args:
        values: By flag; None for those not given.
        without: The flag that they need.
        given: Its value; false where it is not given.

    Raises: UsageError.
    """
    ignored = [flag for flag, value in values.items() if value is not None]
    if ignored and not given:
        raise UsageError(f"{', '.join(ignored)} would be ignored: give {without} as well")
