import pytest

from kdcache.images.rules import SourceRules, recorded_rules


def test_a_cache_remembers_what_its_keys_depend_on() -> None:
    assert SourceRules(label_member="cls").recorded() == {}
    rules = SourceRules(tar_keys="last-dot", image_member="left.png", key_prefix="tar", label_member="json:label")
    assert rules.recorded() == {"tar_keys": "last-dot", "image_member": "left.png", "key_prefix": "tar"}
    again = recorded_rules(rules.recorded())
    assert again.recorded() == rules.recorded()
    # Ambiguous labels must not keep a student from its images.
    assert again.label_member == "none"


@pytest.mark.parametrize(
    "values", [{"tar_keys": "second-dot"}, {"key_prefix": "folder"}, {"image_member": "."}, {"label_member": ""}]
)
def test_what_is_no_rule_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        SourceRules(**values)
