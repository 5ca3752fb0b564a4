import json
import re
from pathlib import Path

import pytest

from kdcache.cli import bench
from kdcache.cli.main import main
from kdcache.teacher.extract import extract
from tests.cli.support import fails, without
from tests.conftest import tiny_extract
from tests.stream.modes import needs_extension

QUICK = ["--seconds", "0.05", "--step-ms", "1"]


def test_what_a_user_reads(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tiny_root), "--shuffle", *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("shuffled, batches of 20, views replayed from the images, 2 threads")
    # How fast the machine decodes just now decides whether raw pixels are advised.
    names = [line.split()[0] for line in lines[1:] if not line.startswith("pixels ")]
    assert names == ["stream", "gather", "stages", "start", "stall", "order"]
    assert re.search(r"targets [\d,]+, images [\d,]+; limited by (targets|images)$", lines[3])


@pytest.mark.parametrize(
    ("raw", "advised"), [(None, False), ({"times_as_fast": 1.4}, False), ({"times_as_fast": 39.2}, True)]
)
def test_raw_pixels_are_advised_where_they_pay(raw: dict[str, float] | None, advised: bool) -> None:
    line = bench._advice(Path("caches/x"), raw and {"samples_per_s": 7781.0, "bytes": 60.6e6, **raw})
    assert (line is not None) == advised
    if line is not None:
        assert "39 times as fast, about 7,781 samples/s, for 60.6 MB of disk" in line
        assert "--add --pixels raw --out caches/x`" in line


def test_what_a_program_reads(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--json", "--images", "none", "--column", "blocks-1-patch-int8", "--access", "read"]
    assert main(["bench", str(tiny_root), *arguments, *QUICK]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"samples_per_s", "gb_per_s", "ratio_to_memcpy", "limited_by", "stall_share"} <= set(result)
    assert result["gather"] == "preadv into reused buffers"
    assert result["limited_by"] == "targets"


@needs_extension
def test_a_budget_too_small_for_maps_says_so(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--images", "none", "--batch-size", "2", "--memory-budget", "0.00014"]
    assert main(["bench", str(tiny_root), *arguments, *QUICK]) == 0
    assert "so it is not mapped" in capsys.readouterr().out


def test_a_cache_without_images_is_measured_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extract(tiny_extract(tmp_path / "refer", images="reference"))
    assert main(["bench", str(tmp_path / "refer"), *QUICK]) == 0
    assert "no images" in capsys.readouterr().out
    assert main(["bench", str(tmp_path / "refer"), "--pixels", "stored", *QUICK]) == 2
    assert "no stored pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--column", "nope"], "no column 'nope'; it holds vit-tiny-patch16-224/blocks-1-patch-fp16"),
        (["--pixels", "stored"], "no stored pixels"),
        (["--step-ms", "0"], "must be positive"),
        (["--batch-size", "0"], "batch_size must be"),
        (["--threads", "0"], "num_threads must be at least 1"),
        (["--memory-budget", "1e-9"], "the batch buffers take"),
    ],
)
def test_wrong_usage(tiny_root: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in fails(capsys, ["bench", str(tiny_root), *without(QUICK, arguments[0]), *arguments], code=2)
