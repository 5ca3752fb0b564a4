import pytest

from kdcache.reports.words import layer_text, levels_text, number_text, p99_text, share_text, shortened, size_text
from tests.reports.synthetic import layer, spread


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (0.0, "0"),
        (0.5, "0.5"),
        (122074, "122,074"),
        (2e-5, "2.000e-05"),
        (1234.5, "1234"),
        (-7.40641, "-7.406"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number_text(value) == text


def test_shares_and_sizes() -> None:
    assert share_text(0.0312) == "3.1 %"
    assert share_text(None) == "\N{EN DASH}"
    assert size_text(19_300_000) == "19.3 MB"


def test_levels_are_whole_numbers_in_the_order_asked_for() -> None:
    assert levels_text({"99": 121.4, "80": 14.0}, ("80", "99")) == "14 / 121"
    assert levels_text({"99": 121.4}, ("80", "99")) == "\N{EN DASH} / 121"
    assert levels_text(None, ("80",)) == p99_text(None, ("80",)) == "\N{EN DASH}"
    assert p99_text({"80": spread(12.0)}, ("80",)) == "14"


def test_a_layer_is_named_with_its_codec() -> None:
    assert layer_text(layer(3)) == "blocks.3/patch (fp16)"
    assert layer_text(layer(3, codec="")) == "blocks.3/patch"


@pytest.mark.parametrize("length", [8, 9, 40])
def test_long_names_lose_their_middle(length: int) -> None:
    name = "a" * 30 + "b" * 30
    short = shortened(name, length)
    assert len(short) == length
    assert short[0] == "a"
    assert short[-1] == "b"
    assert shortened("short", length) == "short"
