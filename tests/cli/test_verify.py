import json
import os
import shutil
from pathlib import Path

import pytest

from kdcache.cache import Cache, open_cache
from kdcache.cli.main import main
from tests.conftest import GROUP, flip_bit


def test_a_good_cache(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tiny_root)]) == 0
    assert "OK: 3 shards, 40 views, images and 1 group" in capsys.readouterr().out


def test_against_a_fresh_teacher(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tiny_root), "--rerun-teacher", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is True
    assert 0 < result["rerun_worst_relative_error"] < 0.5


def damaged(root: Path) -> tuple[Cache, str]:
    cache = open_cache(root)
    strided = cache.strided(cache.find_column(kind="patch", codec="fp16"), cache.manifest.shards[1])
    flip_bit(strided.path, strided.payload_offset(4))
    return cache, cache.index(cache.manifest.shards[1]).key(2)


def test_each_fault_is_one_line_with_shard_key_and_remedy(cache_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, key = damaged(cache_copy)
    assert main(["verify", str(cache_copy)]) == 1
    first, summary = capsys.readouterr().out.splitlines()
    assert first.startswith(f"train-000001 vit-tiny-patch16-224/blocks-1-patch-fp16 key '{key}'")
    assert "kdcache verify --repair" in first
    assert "1 fault in 3 shards" in summary


def test_repair_and_extract_again(cache_copy: Path, tiny_cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    from kdcache.teacher.extract import extract
    from tests.conftest import tiny_extract

    damaged(cache_copy)
    assert main(["verify", str(cache_copy), "--repair"]) == 1
    assert "vit-tiny-patch16-224: 1 shard moved to" in capsys.readouterr().out
    extract(tiny_extract(cache_copy))
    assert main(["verify", str(cache_copy)]) == 0
    assert open_cache(cache_copy).digest == tiny_cache.digest


def test_repair_cannot_help_everything(cache_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache_copy / "stray").mkdir()
    assert main(["verify", str(cache_copy), "--repair"]) == 1
    assert "nothing to repair by extracting again" in capsys.readouterr().out


def test_rebuild(cache_copy: Path, tiny_cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(cache_copy / "index")
    (cache_copy / "manifest.json").write_bytes(b"garbage")
    assert main(["verify", str(cache_copy)]) == 1
    assert "--rebuild" in capsys.readouterr().err
    assert main(["verify", str(cache_copy), "--rebuild"]) == 0
    assert open_cache(cache_copy).digest == tiny_cache.digest


def test_faults_as_json(cache_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, key = damaged(cache_copy)
    assert main(["verify", str(cache_copy), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is False
    assert result["faults"][0]["key"] == key


@pytest.mark.parametrize("part", ["samples", "index", "ledger", f"{GROUP}/index", f"{GROUP}/head-logits-fp16"])
def test_a_folder_that_is_gone_is_a_fault_like_any_other(
    cache_copy: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    shutil.rmtree(cache_copy / part)
    assert main(["verify", str(cache_copy), "--repair"]) == 1
    assert "3 faults in 3 shards" in capsys.readouterr().out


def test_a_pipe_in_place_of_a_ledger_is_not_waited_for(cache_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cache_copy / "ledger" / "train-000001.json"
    path.unlink()
    os.mkfifo(path)
    assert main(["verify", str(cache_copy)]) == 1
    assert "train-000001 ledger: the file is missing" in capsys.readouterr().out
