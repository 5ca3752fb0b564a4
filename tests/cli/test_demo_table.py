from typing import Any

import pytest

from kdcache.cli.demo_table import demo_text, summarize, verdict

# Rows that differ by 10 points where seeds move them by 1, and one in between.
TOP1 = {"alone": [80.0, 81.0, 82.0], "logits": [81.0, 82.0, 83.0], "Lift": [90.0, 91.0, 92.0]}


def runs(num_seeds: int = 3) -> dict[str, dict[str, Any]]:
    return {
        f"{row}, seed {seed}": {
            "row": row,
            "top1": top1[seed],
            "num_images": 360,
            "num_parameters": 117_000,
            "images_per_s": 1000.0 + seed,
            "target_bytes_per_view": 1024,
            "peak_memory_bytes": 900_000_000 + seed,
        }
        for row, top1 in TOP1.items()
        for seed in range(num_seeds)
    }


def test_seeds_are_put_together_in_rows() -> None:
    row = summarize(runs())["rows"]["Lift"]
    assert row["top1"] == TOP1["Lift"]
    assert (row["top1_mean"], row["top1_sd"]) == (91.0, 1.0)
    assert (row["images_per_s"], row["peak_memory_bytes"]) == (1001.0, 900_000_002)


def test_the_table_shows_the_spread_and_says_what_it_is() -> None:
    text = demo_text({"teacher_top1": 95.0, **summarize(runs())})
    assert "91.0 ± 1.0 %" in text
    assert "of 360 held-out digits" in text
    assert "mean ± standard deviation over 3 seeds" in text
    # sqrt(.95 x .05 / 360)
    assert "about 1.1 points" in text


def test_only_differences_beyond_the_seeds_are_claimed() -> None:
    found = summarize(runs())
    # Standard deviation 1 in each of three groups of three: 4.34 / sqrt(3).
    assert found["least_difference"] == pytest.approx(2.505, abs=0.01)
    text = verdict(found["rows"], found["least_difference"])
    assert "Lift above alone (10.0), Lift above logits (9.0)" in text
    assert "logits above alone" not in text
    assert "ranks nothing" in verdict(found["rows"], 20.0)


def test_one_seed_claims_nothing() -> None:
    text = demo_text({"teacher_top1": 95.0, **summarize(runs(num_seeds=1))})
    assert "±" not in text
    assert "One seed has no error bar" in text
    assert "above" not in text.split("One seed has no error bar")[1]
