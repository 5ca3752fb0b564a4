import msgspec
import pytest

from kdcache.reports.published import PUBLISHED, RANK_LEVELS, SEP_LEVELS, published_for
from tests.reports.synthetic import CHANNELS, layer, source


def test_all_fourteen_are_whole_and_rise() -> None:
    assert len(PUBLISHED) == 14
    for each in PUBLISHED:
        assert len(each.per_image) == len(each.shared) == len(RANK_LEVELS)
        assert len(each.sep_bins) == len(SEP_LEVELS)
        for values in (each.per_image, each.shared, each.sep_bins):
            assert list(values) == sorted(values)
            assert values[-1] <= each.num_channels
        assert all(own <= shared for own, shared in zip(each.per_image, each.shared, strict=True))
    names = [name for each in PUBLISHED for name in each.timm_names]
    assert len(names) == len(set(names))


def test_every_name_is_a_checkpoint_of_timm() -> None:
    import timm

    for each in PUBLISHED:
        first, *untagged = each.timm_names
        assert timm.get_pretrained_cfg(first) is not None
        for name in untagged:
            found = timm.get_pretrained_cfg(name)
            assert found is not None
            assert first == f"{name}.{found.tag}"


@pytest.mark.parametrize("name", ["cait_s24_224", "cait_s24_224.fb_dist_in1k", "hf_hub:timm/cait_s24_224.fb_dist_in1k"])
def test_a_known_teacher_is_found(name: str) -> None:
    wide = [msgspec.structs.replace(layer(23), num_channels=384, num_tokens=196)]
    found = published_for(source("c", teacher=name), wide)
    assert found is not None
    assert found.model == "CaiT-S24"
    other = published_for(source("c", teacher=name, weights="file"), wide)
    assert other is not None
    assert other.model == "CaiT-S24, perhaps of other weights"
    for changes in ({"block": 22}, {"num_tokens": 195}, {"num_channels": 192}):
        assert published_for(source("c", teacher=name), [msgspec.structs.replace(wide[0], **changes)]) is None
    assert published_for(source("c", teacher=name, weights="random"), wide) is None


def test_another_checkpoint_or_width_is_not() -> None:
    assert published_for(source("c", teacher="vit_base_patch16_224"), [layer(0)]) is None
    assert CHANNELS != 384
    assert published_for(source("c", teacher="cait_s24_224"), [layer(0)]) is None
    assert published_for(source("c", teacher="cait_s24_224"), []) is None
