from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.models import create_timm_model, load_weights
from kdcache.recipes.digits_teacher import DigitsTeacher, train_digits_teacher


@pytest.mark.slow
def test_it_learns_and_its_weights_load(tmp_path: Path) -> None:
    config = replace(DigitsTeacher(), epochs=2)
    epochs: list[int] = []
    top1 = train_digits_teacher(tmp_path / "t.safetensors", config, on_epoch=lambda epoch, _: epochs.append(epoch))
    assert epochs == [1, 2, 2]
    assert 10 < top1 <= 100
    load_weights(create_timm_model(config.name, kwargs=config.kwargs), tmp_path / "t.safetensors")
