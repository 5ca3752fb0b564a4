import pytest

from kdcache.errors import SourceError
from kdcache.images.source import Source, SourceImage, refuse_duplicates


class Fixed(Source):
    kind = "fixed"

    def __init__(self, labels: list[int], names: list[str]) -> None:
        self.images = [SourceImage(str(number), str(number), "jpg", label) for number, label in enumerate(labels)]
        self.class_names = names

    def read(self, position: int) -> bytes:
        return b""

    def size_bytes(self, position: int) -> int:
        return 0


@pytest.mark.parametrize(
    ("labels", "names", "count"), [([0, 4], [], 5), ([0], ["a", "b"], 2), ([-1, -1], [], 0), ([-1, 2], [], 3)]
)
def test_classes_are_counted(labels: list[int], names: list[str], count: int) -> None:
    assert Fixed(labels, names).num_classes == count


def test_duplicates_name_both_places() -> None:
    refuse_duplicates([("a", "x.tar"), ("b", "x.tar")])
    with pytest.raises(SourceError, match=r"'a' occurs twice: in x.tar and in y.tar"):
        refuse_duplicates([("a", "x.tar"), ("b", "x.tar"), ("a", "y.tar")])
