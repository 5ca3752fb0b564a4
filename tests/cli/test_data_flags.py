import argparse
from pathlib import Path

import pytest

from kdcache.cli.data_flags import add_data, add_rules, rules_of
from kdcache.errors import UsageError
from kdcache.images import open_source
from kdcache.images.rules import SourceRules
from tests.images.support import write_tar


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_data(made, "--data", help="images")
    add_rules(made)
    return made


def test_a_shell_may_expand_the_pattern(tmp_path: Path) -> None:
    tars = [str(write_tar(tmp_path / f"{name}.tar", {f"{name}.jpg": b"x"})) for name in "abc"]
    whole = parser().parse_args(["--data", *tars])
    parts = parser().parse_args(["--data", tars[0], "--data", *tars[1:]])
    assert whole.data == parts.data
    assert [image.key for image in open_source(whole.data).images] == ["a", "b", "c"]


def test_no_flag_is_no_rule() -> None:
    parsed = parser().parse_args([])
    assert parsed.data is None
    assert rules_of(parsed) == SourceRules()


def test_all_rules() -> None:
    words = "--labels l --label-member cls --image-member jpg --tar-keys last-dot --key-prefix tar --class-map m"
    rules = rules_of(parser().parse_args([*words.split(), "--class-order", "sorted"]))
    assert (rules.labels, rules.label_member, rules.image_member) == (Path("l"), "cls", "jpg")
    assert (rules.tar_keys, rules.key_prefix) == ("last-dot", "tar")
    assert (rules.classes.order, rules.classes.class_map) == ("sorted", Path("m"))


def test_an_empty_member_is_refused() -> None:
    with pytest.raises(UsageError, match="image_member must be an extension"):
        rules_of(parser().parse_args(["--image-member", "."]))
