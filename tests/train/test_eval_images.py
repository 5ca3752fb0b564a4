from pathlib import Path

import numpy as np
import pytest

from kdcache.images import open_source
from kdcache.train.eval_images import eval_batches
from kdcache.views import EvalView

VIEW = EvalView(size=8, crop_pct=0.875, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize("batch_size", [1, 4, 6, 100])
def test_every_image_once_in_order(photos: Path, batch_size: int) -> None:
    source = open_source(str(photos))
    batches = list(eval_batches(source, VIEW, range(6), batch_size, threads=2))
    assert [len(each) for _, each, _ in batches] == [min(batch_size, 6 - at) for at in range(0, 6, batch_size)]
    assert [position for _, each, _ in batches for position in each] == list(range(6))
    whole = np.concatenate([pixels for pixels, _, _ in batches])
    assert whole.shape == (6, 8, 8, 3)
    [(again, _, _)] = eval_batches(source, VIEW, range(6), 6, threads=1)
    np.testing.assert_array_equal(whole, again)


def test_undecodable_images_are_counted(photos: Path) -> None:
    next(photos.rglob("0.jpg")).write_bytes(b"no image")
    source = open_source(str(photos))
    broken = next(number for number, image in enumerate(source.images) if image.key.endswith("0.jpg"))
    [(pixels, positions, num_bad)] = eval_batches(source, VIEW, range(6), 6)
    assert (len(pixels), num_bad) == (5, 1)
    assert positions == [number for number in range(6) if number != broken]


def test_nothing_is_asked_for(photos: Path) -> None:
    assert list(eval_batches(open_source(str(photos)), VIEW, [], 4)) == []
