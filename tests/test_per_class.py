from collections import Counter

import pytest

from kdcache.errors import UsageError
from kdcache.per_class import check_per_class, few_shot

LABELS = [position % 3 for position in range(100)] + [3] * 50
KEYS = [f"image {position}" for position in range(150)]


def kept(per_class: str, seed: int = 12) -> list[int]:
    return few_shot(LABELS, KEYS, per_class=per_class, seed=seed)


def counts(positions: list[int]) -> dict[int, int]:
    return dict(Counter(LABELS[position] for position in positions))


def test_every_class_keeps_as_many_as_asked() -> None:
    assert counts(kept("5")) == {0: 5, 1: 5, 2: 5, 3: 5}
    assert counts(kept("10%")) == {0: 3, 1: 3, 2: 3, 3: 5}
    assert counts(kept("9.9%")) == {0: 3, 1: 3, 2: 3, 3: 4}
    assert kept("100%") == list(range(150))


def test_subsets_are_seeded_and_nested() -> None:
    assert kept("5") == kept("5") == sorted(kept("5"))
    assert kept("5") != kept("5", seed=13)
    assert set(kept("2")) < set(kept("5")) < set(kept("30"))
    assert set(kept("10%")) < set(kept("20%"))


def test_the_draw_is_frozen() -> None:
    """A cache extracted tomorrow must hold the same images."""
    assert kept("1") == [51, 65, 82, 146]


def test_a_class_does_not_depend_on_the_others_nor_on_the_order() -> None:
    alone = [position for position in range(150) if LABELS[position] == 1][::-1]
    found = few_shot([1] * len(alone), [KEYS[position] for position in alone], per_class="4", seed=12)
    assert {alone[position] for position in found} == {p for p in kept("4") if LABELS[p] == 1}


def test_any_image_may_be_kept() -> None:
    seen = {position for seed in range(200) for position in kept("3", seed=seed)}
    assert len(seen) == 150


@pytest.mark.parametrize(
    ("per_class", "message"),
    [
        ("34", r"class 1 \(b\) has 33 images, fewer than 34 \(and 1 more like it\)"),
        ("51", r"class 0 \(a\) has 34 images, fewer than 51 \(and 3 more"),
        ("50", r"class 0 \(a\) has 34 images, fewer than 50 \(and 2 more"),
        ("3%", r"class 1 \(b\) has 33 images, 3% of them is none \(and 1 more"),
        ("1%", r"class 0 \(a\) has 34 images, 1% of them is none \(and 3 more"),
    ],
)
def test_a_class_that_is_too_small_is_named(per_class: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        few_shot(LABELS, KEYS, per_class=per_class, seed=0, class_names=["a", "b"])


def test_a_class_without_a_name_is_named_by_its_number() -> None:
    with pytest.raises(UsageError, match="class 7 has 1 image, fewer than 2; choose another"):
        few_shot([7, 8, 8], ["a", "b", "c"], per_class="2", seed=0)


def test_images_without_labels_are_refused() -> None:
    with pytest.raises(UsageError, match="by label, and 2 of 3 images have none"):
        few_shot([-1, 0, -1], ["a", "b", "c"], per_class="1", seed=0)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "0%", "101%", "%", "", "1 %", "many", "01"])
def test_what_is_neither_a_count_nor_a_fraction(text: str) -> None:
    with pytest.raises(ValueError, match="per_class must be a number of images"):
        check_per_class(text)


@pytest.mark.parametrize("text", ["1", "1300", "1%", "0.5%", "100%"])
def test_counts_and_fractions(text: str) -> None:
    check_per_class(text)
