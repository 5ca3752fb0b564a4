import json

import pytest

from kdcache.cache.codecs import CODECS
from kdcache.cli.text import codec_names, counted, print_json, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (19_437_000, "19.4 MB"), (2.5e9, "2.5 GB"), (3e15, "3e+03 TB")],
)
def test_sizes(size: float, text: str) -> None:
    assert size_text(size) == text


def test_counts() -> None:
    assert (counted(1, "shard"), counted(3, "shard"), counted(0, "fault")) == ("1 shard", "3 shards", "0 faults")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1]})
    assert json.loads(capsys.readouterr().out) == {"a": [1]}


def test_help_names_every_codec_of_tokens_of_the_package_by_its_file() -> None:
    tokens = {name: codec for name, codec in CODECS.items() if not codec.for_logits}
    own = {name for name, codec in tokens.items() if codec.__module__.startswith("kdcache.")}
    assert set(codec_names()) == own
