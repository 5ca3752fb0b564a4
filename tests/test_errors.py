import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from kdcache import errors
from kdcache.errors import KdcacheError, one_line


def test_every_error_is_a_kdcache_error() -> None:
    """The command line catches the base class and nothing else."""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert len(classes) > 10
    assert all(issubclass(each, errors.KdcacheError) for each in classes)


def test_an_interrupted_run_knows_its_signal() -> None:
    with pytest.raises(errors.KdcacheError) as caught:
        raise errors.InterruptedRunError("saved", 15)
    assert isinstance(caught.value, errors.InterruptedRunError)
    assert caught.value.signal_number == 15


def test_an_error_carries_remedy_and_details_beside_its_message() -> None:
    error = errors.TapError("no column", remedy=errors.Remedy.ADD_COLUMN, wanted="logits", held=["a"])
    assert str(error) == "no column"
    assert error.remedy is errors.Remedy.ADD_COLUMN
    assert error.details == {"wanted": "logits", "held": ["a"]}
    assert errors.UsageError("x").remedy is None
    assert errors.UsageError("x").details == {}


@pytest.mark.parametrize("through", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    "error",
    [
        errors.CorruptCacheError("a: damaged", remedy=errors.Remedy.REPAIR),
        errors.UsageError("no such group", remedy=errors.Remedy.EXTRACT, path=Path("a")),
        errors.InterruptedRunError("saved", 15),
        errors.KdcacheError("plain"),
    ],
)
def test_an_error_crosses_processes_whole(error: errors.KdcacheError, through: Any) -> None:
    """Workers raise, the main process prints."""
    other = through(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)


def test_remedies_are_distinct() -> None:
    """Equal values would make one member an alias of the other."""
    assert len(errors.Remedy) == len(errors.Remedy.__members__)


def test_a_name_cannot_forge_a_line_of_a_message() -> None:
    """A file may be called ``a, newline, kdcache: all is well``."""
    error = KdcacheError("a\nall is well\x1b[31m: damaged", lines=["  seed\n: 1", "Nothing was changed."])
    assert str(error) == "a\\nall is well\\x1b[31m: damaged\n  seed\\n: 1\nNothing was changed."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_text_on_one_line() -> None:
    assert one_line(Path("a b/é\t\u2028\x9b\udcff")) == r"a b/é\t\u2028\x9b\udcff"
