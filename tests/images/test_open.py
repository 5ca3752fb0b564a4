from pathlib import Path

import pytest

from kdcache.errors import SourceError
from kdcache.images import open_source


def test_kinds(photos: Path) -> None:
    assert open_source("digits:test").kind == "digits"
    assert len(open_source("digits").images) == 1797
    assert open_source(str(photos)).kind == "folder"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digits:val", "the parts all, train, test"),
        ("s3://bucket/x.tar", "URLs are not read"),
        ("no/such/folder", "no such file or folder; there is no folder"),
        ("no/such.tar", "no such file"),
    ],
)
def test_what_cannot_be_opened_says_what_can(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(text)


def test_real_cifar_test_shard(shared_data: object) -> None:
    path = shared_data("cifar10/test-000.tar.gz")  # type: ignore[operator]
    source = open_source(str(path))
    assert len(source.images) == 10_000
    assert source.num_classes == 10
