from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from kdcache.config import apply_settings, as_plain, load_named, parse_pairs
from kdcache.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float | None = None
    pair: tuple[float, float] = (0.9, 0.99)
    kind: Literal["a", "b"] = "a"
    count: int = 1
    on: bool = False
    text: str | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("inner.rate=1e-3", "rate", 1e-3),
        ("inner.rate=none", "rate", None),
        ("inner.pair=[0.5,0.6]", "pair", (0.5, 0.6)),
        ("inner.kind=b", "kind", "b"),
        ("inner.count=4", "count", 4),
        ("inner.on=true", "on", True),
        ("inner.text=123", "text", "123"),
        ("inner.text=a=b", "text", "a=b"),
    ],
)
def test_values_take_the_type_of_their_field(setting: str, name: str, value: Any) -> None:
    assert getattr(apply_settings(Outer(), [setting]).inner, name) == value


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("inner.count=4.5", "int"),
        ("inner.count=none", "int"),
        ("inner.count=0", "at least 1"),
        ("inner.kind=c", "choose from a, b"),
        ("inner.cuont=4", "did you mean count"),
        ("outer.count=4", "there are inner"),
        ("inner=4", "inner.rate"),
        ("inner.rate.x=1", "plain value"),
        ("inner.count", "NAME=VALUE"),
    ],
)
def test_wrong_settings_say_what_is_wanted(setting: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        apply_settings(Outer(), [setting])


def test_the_original_is_not_changed() -> None:
    before = Outer()
    apply_settings(before, ["inner.count=7"])
    assert before.inner.count == 1


def test_pairs_are_json_where_they_can_be() -> None:
    assert parse_pairs(["img_size=16", "scale=[0.5,1]", "name=vit", "flag=true"], "--kwargs") == {
        "img_size": 16,
        "scale": [0.5, 1],
        "name": "vit",
        "flag": True,
    }
    with pytest.raises(UsageError, match="--kwargs img_size"):
        parse_pairs(["img_size"], "--kwargs")


def test_plain_values_are_json() -> None:
    assert as_plain(Outer())["inner"]["pair"] == [0.9, 0.99]


def test_named_objects_are_imported_when_they_are_asked_for() -> None:
    table = {"sqrt": "math:sqrt", "log": "math:log"}
    assert load_named(table, "log", "function")(1.0) == 0.0
    with pytest.raises(UsageError, match="unknown function 'sqr'; did you mean sqrt\\? There are sqrt, log"):
        load_named(table, "sqr", "function")
    with pytest.raises(UsageError, match="unknown function 'x'; there are sqrt, log"):
        load_named(table, "x", "function")
