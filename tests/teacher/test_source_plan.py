import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdcache.cache.facts import SubsetFacts
from kdcache.errors import UsageError
from kdcache.images import open_source
from kdcache.teacher.source_plan import plan_source
from tests.conftest import tiny_extract


def config(**changes: Any) -> Any:
    return tiny_extract(Path("unused"), **changes)


def test_the_order_is_seeded_and_a_limit_takes_its_first_part() -> None:
    source = open_source("digits:test")
    whole = plan_source(source, config(limit=None))
    assert sorted(whole.positions) == list(range(360))
    assert whole.positions != sorted(whole.positions)
    assert plan_source(source, config(limit=7)).positions == whole.positions[:7]
    assert plan_source(source, config(seed=1, limit=7)).positions != whole.positions[:7]
    assert plan_source(source, config(order="source", limit=7)).positions == list(range(7))


def test_images_are_drawn_by_class() -> None:
    source = open_source("digits:test")
    few = plan_source(source, config(limit=None, per_class="3", per_class_seed=12))
    labels = [source.images[position].label for position in few.positions]
    assert sorted(labels) == sorted([*range(10)] * 3)
    assert labels != sorted(labels), "in the cache's own order, which is shuffled"
    assert few.facts().subset == SubsetFacts(per_class="3", seed=12)
    assert few.facts().num_samples == 30
    whole = plan_source(source, config(limit=None))
    assert [position for position in whole.positions if position in set(few.positions)] == few.positions
    assert whole.facts().subset is None
    more = plan_source(source, config(limit=None, per_class="20%", per_class_seed=12))
    assert set(few.positions) < set(more.positions)
    other = plan_source(source, config(limit=None, per_class="3", seed=12))
    assert set(other.positions) == set(few.positions), "the seed of the run, where none is given"
    assert set(plan_source(source, config(limit=None, per_class="3")).positions) != set(few.positions)


def test_classes_with_too_few_images_and_images_without_labels_are_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match=r"class 0 \(cat\) has 3 images, fewer than 4 \(and 1 more like it\)"):
        plan_source(open_source(str(photos)), config(limit=None, per_class="4"))
    with pytest.raises(UsageError, match=r"class 0 \(cat\) has 3 images, 30% of them is none"):
        plan_source(open_source(str(photos)), config(limit=None, per_class="30%"))
    path = photos.parent / "unlabelled.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(photos / "cat" / "1.JPEG", "a.jpg")
    with pytest.raises(UsageError, match="counts images by label, and 1 of 1 images have none"):
        plan_source(open_source(str(path)), config(limit=None, per_class="1"))


def test_more_images_do_not_reorder_the_others() -> None:
    """Position is a rank of hashes: the common images keep their relative order."""
    some, more = (plan_source(open_source(name), config(limit=None)) for name in ("digits:test", "digits"))
    names = [some.source.images[position].key for position in some.positions]
    wanted = set(names)
    assert [key for key in (more.source.images[p].key for p in more.positions) if key in wanted] == names


def test_keys_do_not_depend_on_the_limit(photos: Path) -> None:
    (photos / "cat" / "1.png").write_bytes((photos / "cat" / "5.png").read_bytes())
    source = open_source(str(photos))
    whole, part = (plan_source(source, config(limit=limit)) for limit in (None, 3))
    assert part.keys == whole.keys[:3]
    assert sum(key.startswith("kdcache-") for key in whole.keys) == 2


def test_source_facts(photos: Path) -> None:
    facts = plan_source(open_source(str(photos)), replace(config(), limit=4)).facts()
    assert (facts.kind, facts.num_samples, facts.num_classes, facts.class_names) == ("folder", 4, 2, ["cat", "dog"])
