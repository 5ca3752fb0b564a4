import argparse
from dataclasses import fields

from kdcache.cli.pass_flags import add_images, add_kept, add_teacher, add_views
from kdcache.teacher.config import ExtractConfig


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    for declare in (add_images, add_teacher, add_kept, add_views):
        declare(made)
    return made


def test_every_flag_is_a_setting_of_the_pass() -> None:
    made = parser()
    settings = {field.name for field in fields(ExtractConfig)}
    assert {action.dest for action in made._actions} - {"help"} <= settings


def test_what_is_not_given_keeps_its_default() -> None:
    """Only the lists that add up are there, empty, and the data, which is looked for in any case."""
    left = vars(parser().parse_args([]))
    assert {name for name, value in left.items() if value} == set()
    assert set(left) == {"data", "teacher_kwargs", "view_params"}
