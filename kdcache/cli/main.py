"""The command ``kdcache``: finds the verb, loads only what that verb needs, turns errors into one clear message."""

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence

from kdcache import __version__
from kdcache.cli.output import safe_output
from kdcache.cli.parser import verb_parser
from kdcache.cli.remedies import error_text
from kdcache.errors import InterruptedRunError, KdcacheError, Remedy, StorageError, UsageError
from kdcache.storage import refusal

# Verb: what it does. The module is kdcache.cli.<verb>.
VERBS = {
    "demo": "everything below in minutes, on handwritten digits",
    "plan": "whether a cache pays here: bytes, hours, epochs to break even, from short measurements",
    "extract": "run the teacher over images and write a cache; run again to resume",
    "convert": "a cache's columns under another codec; one HDF5 file and back; features of other programs",
    "verify": "check a whole cache, repair or rebuild it",
    "show": "what a cache holds; one record as a picture",
    "bench": "how fast a cache streams here, relative to the machine's memcpy",
    "train": "train a student from a cache, without the teacher; run again to resume",
    "sweep": "one student for each rank of its linear layers, from sweep to effective rank and knee",
    "eval": "accuracy of a trained student",
    "export": "a trained student as plain files for timm and the Hugging Face hub",
    "analyze": "ranks, spectra and dynamics of a cache's or a model's features (the papers' analyses)",
    "report": "one HTML page with tables and plots from analyses and runs",
}
_USAGE_EXIT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words behind ``kdcache``; None takes the process's.

    Returns: the exit code: 0, 1 for an error or faults found, 2 for wrong usage, 128 + n after signal n.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with safe_output(words):
        return _main(words)


def _main(words: Sequence[str]) -> int:
    if not words or words[0] not in VERBS:
        return _top_level(words)
    module = importlib.import_module(f"kdcache.cli.{words[0]}")
    parser = verb_parser(words[0], module)
    try:
        return module.run(parser.parse_args(words[1:]))
    except KdcacheError as error:
        return _failed(words[0], error)
    except KeyboardInterrupt:
        print(f"kdcache {words[0]}: interrupted; whatever was finished is safe", file=sys.stderr)
        return 130
    except OSError as error:
        # Whatever no room below has put into words.
        return _failed(words[0], refusal(error, "use", error.filename or "a file or the machine"))
    except MemoryError:
        problem = "out of memory; whatever was finished is safe"
        return _failed(words[0], StorageError(problem, remedy=Remedy.FREE_MEMORY))


def _failed(verb: str, error: KdcacheError) -> int:
    print(f"kdcache {verb}: error: {error_text(error)}", file=sys.stderr)
    if isinstance(error, InterruptedRunError):
        return 128 + error.signal_number
    return _USAGE_EXIT if isinstance(error, UsageError) else 1


def _top_level(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="kdcache",
        usage="kdcache VERB [options]",
        description="Run a frozen vision teacher once, keep its outputs, train any number of students from them.",
        epilog="verbs:\n"
        + "\n".join(f"  {verb:<9}{summary}" for verb, summary in VERBS.items())
        + "\n\n`kdcache VERB --help` explains a verb and gives an example. Begin with `kdcache demo`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help="show this and leave")
    parser.add_argument(
        "--version", action="version", version=f"kdcache {__version__}", help="show the version and leave"
    )
    if not words:
        parser.print_help()
        return _USAGE_EXIT
    if not words[0].startswith("-"):
        close = difflib.get_close_matches(words[0], VERBS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(VERBS)}"
        parser.exit(_USAGE_EXIT, f"kdcache: error: there is no verb {words[0]!r}; {hint}\n")
    parser.parse_args(words)
    return 0
