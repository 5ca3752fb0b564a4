import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdcache.cache import Cache
from kdcache.strict_json import dump_json
from kdcache.train.setup import prepare
from kdcache.train.summary import peak_memory_bytes, term_losses
from tests.conftest import GROUP
from tests.train.support import tiny_run


def test_terms_with_their_mean_loss(tiny_cache: Cache, tmp_path: Path) -> None:
    step = prepare(tiny_run(), tiny_cache).step
    values = {"kind": "step", "lr": 1.0, "cross-entropy": 1.0, "logits": 2.0}
    entries = [{**values, "step": number, "epoch": number // 2, "tokens": float(number)} for number in range(4)]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(dump_json(each).replace(b"\n", b"") + b"\n" for each in entries))
    terms = term_losses(step, tmp_path, epoch=1)
    assert [(term["label"], term["weight"], term["loss"]) for term in terms] == [
        ("cross-entropy", pytest.approx(0.1), 1.0),
        ("logits", 0.9, 2.0),
        ("tokens", 0.2, 2.5),
    ]
    assert terms[2]["columns"] == [f"{GROUP}/blocks-1-patch-fp16"]
    assert terms[2]["student_taps"] == ["change/tokens"]
    assert terms[2]["settings"]["adapter"] == "none"
    assert all(term["loss"] is None for term in term_losses(step, None, epoch=1))


@pytest.mark.slow
def test_memory_is_that_of_this_process() -> None:
    code = "import torch; from kdcache.train.summary import peak_memory_bytes as peak\n"
    code += "before = peak(torch.device('cpu')); held = torch.ones(2**26)\nprint(peak(torch.device('cpu')) - before)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) > 2**27
    assert peak_memory_bytes(torch.device("cpu")) > 10**8
