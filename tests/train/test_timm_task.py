import pytest
import torch

from kdcache.cache import Cache
from kdcache.methods.none import none
from kdcache.train.setup import prepare
from tests.methods.support import one_batch
from tests.train.support import tiny_run

pytest.importorskip("timm.task", reason="this timm has no training tasks")


def test_timms_contract(tiny_cache: Cache) -> None:
    from kdcache.train.timm_task import CachedDistillationTask

    task = CachedDistillationTask(prepare(tiny_run(), tiny_cache).step, verbose=False)
    batch = one_batch(tiny_cache)
    setup = prepare(tiny_run(), tiny_cache)
    targets = {column.name: batch.targets[column.name] for column in setup.columns}
    result = task(batch.images, batch.labels, targets)
    assert {"loss", "output", "logits", "tokens"} <= set(result)
    result["loss"].backward()
    task.setup_ema(decay=0.9)
    task.update_ema()
    student = task.get_eval_model()
    assert student is not None
    with torch.inference_mode():
        assert student.eval()(batch.images).shape == (8, 10)
    state = task.get_checkpoint_state()
    task.load_checkpoint_state(state["state_dict"])
    with pytest.raises(ValueError, match="give exactly those"):
        task(batch.images, batch.labels)


def test_a_method_without_targets(tiny_cache: Cache) -> None:
    from kdcache.train.timm_task import CachedDistillationTask

    task = CachedDistillationTask(prepare(tiny_run("data.codec=none", method=none()), tiny_cache).step, verbose=False)
    batch = one_batch(tiny_cache)
    assert torch.isfinite(task(batch.images, batch.labels)["loss"])
