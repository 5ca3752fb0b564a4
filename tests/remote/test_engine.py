"""What is said where the libraries of object storage are missing, and how often something is tried."""

import sys

import pytest

from kdcache.errors import MissingExtraError
from kdcache.remote import engine


@pytest.mark.parametrize("name", ["obstore", "tenacity"])
def test_a_missing_library_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    if name == "tenacity":
        pytest.importorskip("obstore", reason="needs obstore, of kdcache[cloud]")
    with pytest.raises(MissingExtraError, match=rf"{name}.*pip install 'kdcache\[cloud\]'"):
        engine.engine()


def test_attempts_end() -> None:
    pytest.importorskip("tenacity", reason="needs tenacity, of kdcache[cloud]")
    tried: list[int] = []
    with pytest.raises(OSError, match="third"):
        for attempt in engine.retrying(OSError, attempts=3, pause_s=0):
            with attempt:
                tried.append(1)
                raise OSError("third" if len(tried) == 3 else "earlier")
    assert len(tried) == 3
    with pytest.raises(ValueError, match="other"):
        for attempt in engine.retrying(OSError, max_seconds=5, pause_s=0):
            with attempt:
                raise ValueError("other")
