"""More tars than a process may open, all of which count their images from 0, through every verb that reads them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import STUDENT_KWARGS, TEACHER, TEACHER_KWARGS
from tests.images.support import image_bytes, write_tar

_RUN = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from kdcache.cli.main import main
for words in json.loads(sys.argv[1]):
    assert main(words) == 0, words
"""


def pairs(values: dict[str, int]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


@pytest.mark.slow
def test_two_hundred_tars_under_a_limit_of_64_files(tmp_path: Path) -> None:
    images = [image_bytes(number) for number in range(4)]
    for number in range(200):
        write_tar(tmp_path / f"t-{number:03d}.tar", {"0.a.jpg": images[number % 4], "0.a.cls": b"%d" % (number % 4)})
    tars, cache, run = f"{tmp_path}/t-*.tar", str(tmp_path / "c"), str(tmp_path / "run")
    data = ["--data", tars]
    rules = ["--key-prefix", "tar", "--tar-keys", "last-dot"]
    verbs = [
        ["extract", *data, *rules, "--images", "reference", "--out", cache, "--teacher", TEACHER, "--threads", "2",
         "--teacher-weights", "random", "--teacher-kwargs", *pairs({**TEACHER_KWARGS, "num_classes": 4})],
        # The cache knows how its keys were made.
        ["verify", cache, "--rerun-teacher", "3", *data],
        ["bench", cache, "--seconds", "0.2", *data],
        ["train", "--cache", cache, "--out", run, "--student", TEACHER, "--method", "logit", "--epochs", "1", *data,
         "--student-kwargs", *pairs(STUDENT_KWARGS)],
        ["eval", run, *data, *rules],
        ["eval", run, *data, *rules, "--probe", "--probe-data", tars, "--probe-seeds", "1", "--probe-set", "epochs=1"],
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(verbs)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "labels: all, from .cls members" in done.stderr
