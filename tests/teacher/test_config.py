from pathlib import Path
from typing import Any

import pytest

from kdcache.teacher.config import ExtractConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": 0}, "views must be at least 1, got 0"),
        ({"views": 2}, "eval draws nothing"),
        ({"views": 101, "view_recipe": "rrc-flip"}, "at most 100"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"order": "random"}, "shuffle, source, got 'random'"),
        ({"view_recipe": "deit"}, "eval, rrc-flip, got 'deit'"),
        ({"precision": "fp8"}, "auto, fp32, bf16, fp16"),
        ({"taps": ()}, "at least one tap"),
        ({"max_bad": 2.0}, "between 0 and 1"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExtractConfig(**{"data": "digits", "out": Path("c"), "teacher": "t", **changes})
