import pytest

from kdcache.cache.verify import Fault
from kdcache.cli.remedies import fault_line, remedy_text
from kdcache.errors import Remedy


@pytest.mark.parametrize("remedy", Remedy)
def test_every_remedy_has_words(remedy: Remedy) -> None:
    text = remedy_text(remedy, group="wide")
    assert text
    assert not text.endswith(".")
    assert "{" not in text


def test_a_fault_is_one_line_with_place_problem_and_remedy() -> None:
    fault = Fault("train-000001", "head-logits-fp16", "k", "bytes differ", Remedy.REPAIR, "wide")
    assert fault_line(fault) == (
        "train-000001 wide/head-logits-fp16 key 'k': bytes differ; run `kdcache verify --repair`, then the same "
        "`kdcache extract` again"
    )
    whole = Fault("", "manifest.json", "", "damaged", Remedy.REBUILD_OR_DELETE_GROUP, "wide")
    assert "--rebuild --group wide" in fault_line(whole)
