import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from kdcache.cache import Cache
from kdcache.distributed import WorkerEnv
from kdcache.errors import UsageError
from kdcache.stream.batch import Batch
from kdcache.train.setup import prepare
from kdcache.train.trainer import Trainer
from tests.methods.support import one_batch
from tests.train.support import tiny_run

ALONE, CPU = WorkerEnv(0, 1, 0, "job"), torch.device("cpu")


def make(cache: Cache, *settings: str, **changes: Any) -> Trainer:
    config = tiny_run(*settings, **{"batch_size": 8, **changes})
    return Trainer(config, prepare(config, cache), ALONE, CPU, steps_per_epoch=5)


def trained(cache: Cache, *settings: str, steps: int = 3, **changes: Any) -> tuple[Trainer, list[float]]:
    trainer, batch = make(cache, *settings, **changes), one_batch(cache)
    return trainer, [float(trainer.step(batch, step)[0]["loss"]) for step in range(steps)]


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in trainer.student.parameters()])


@pytest.mark.slow
def test_the_loss_goes_down(tiny_cache: Cache) -> None:
    _, losses = trained(tiny_cache, "optimizer.lr=1e-2", steps=15, epochs=10)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("pieces", [2, 4])
def test_accumulation_changes_memory_and_nothing_else(tiny_cache: Cache, pieces: int) -> None:
    whole, losses = trained(tiny_cache)
    cut, cut_losses = trained(tiny_cache, accumulate=pieces)
    assert cut_losses == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(weights(cut), weights(whole), rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_memory_and_nothing_else(tiny_cache: Cache) -> None:
    plain, losses = trained(tiny_cache)
    frugal, frugal_losses = trained(tiny_cache, grad_checkpointing=True)
    assert frugal_losses == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(weights(frugal), weights(plain), rtol=1e-4, atol=1e-6)


def test_bf16_follows_fp32(tiny_cache: Cache) -> None:
    single, losses = trained(tiny_cache)
    half, half_losses = trained(tiny_cache, precision="bf16")
    assert (single.precision, half.precision) == ("fp32", "bf16")
    assert half_losses != losses
    assert half_losses == pytest.approx(losses, rel=0.05)


@pytest.mark.parametrize("part", ["model", "optimizer", "ema"])
@pytest.mark.slow
def test_each_part_of_the_state_is_needed(tiny_cache: Cache, part: str) -> None:
    """Leaving one out must show, or it would not be state."""
    settings: dict[str, Any] = {"ema_decay": 0.5}
    batch = one_batch(tiny_cache)

    def go_on(state: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        trainer = make(tiny_cache, **settings)
        trainer.load_state_dict(state)
        for step in range(3, 6):
            trainer.step(batch, step)
        averaged = trainer.averaged_student
        assert averaged is not None
        return weights(trainer), torch.cat([p.detach().reshape(-1) for p in averaged.parameters()])

    first, _ = trained(tiny_cache, **settings)
    state = first.state_dict()
    for step in range(3, 6):
        first.step(batch, step)
    averaged = first.averaged_student
    assert averaged is not None
    expected = weights(first), torch.cat([p.detach().reshape(-1) for p in averaged.parameters()])
    fresh = make(tiny_cache, **settings).state_dict()
    complete = go_on_equal(go_on(_copy(tiny_cache, settings, 3)), expected)
    assert complete
    assert not go_on_equal(go_on({**_copy(tiny_cache, settings, 3), part: fresh[part]}), expected)
    assert state.keys() == {"model", "optimizer", "scaler", "ema"}


def _copy(cache: Cache, settings: dict[str, Any], steps: int) -> dict[str, Any]:
    return trained(cache, steps=steps, **settings)[0].state_dict()


def go_on_equal(found: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


def test_randomness_inside_a_step_is_a_function_of_its_number(tiny_cache: Cache) -> None:
    kwargs = {**tiny_run().student_kwargs, "drop_path_rate": 0.5}
    batch = one_batch(tiny_cache)

    def terms(step: int, before: int) -> float:
        trainer = make(tiny_cache, student_kwargs=kwargs)
        torch.manual_seed(before)
        return float(trainer.step(batch, step)[0]["loss"])

    assert terms(3, before=1) == terms(3, before=2)
    assert terms(3, before=1) != terms(4, before=1)


def test_gradients_are_clipped(tiny_cache: Cache) -> None:
    free, _ = trained(tiny_cache, "optimizer.name=sgd", "optimizer.lr=1.0", steps=1)
    clipped, _ = trained(tiny_cache, "optimizer.name=sgd", "optimizer.lr=1.0", "optimizer.clip_grad=1e-4", steps=1)
    start = weights(make(tiny_cache))
    assert (weights(clipped) - start).norm() < 0.1 * (weights(free) - start).norm()


def test_nothing_of_ddp_outlives_the_group(tiny_cache: Cache, tmp_path: Path) -> None:
    """Its reducer, ended last, may wait for ever."""
    config = tiny_run(batch_size=8)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        env = WorkerEnv(0, 2, 0, "job")
        trainer = Trainer(config, prepare(config, tiny_cache), env, CPU, steps_per_epoch=5)
        trainer.step(one_batch(tiny_cache), 0)
        held = weakref.ref(trainer._forward)
        assert isinstance(held(), DistributedDataParallel)
        trainer.close()
        gc.collect()
        assert held() is None
    finally:
        dist.destroy_process_group()


def test_what_a_cpu_cannot_do(tiny_cache: Cache) -> None:
    with pytest.raises(UsageError, match="fp16 needs an accelerator"):
        make(tiny_cache, precision="fp16")


def test_the_rate_is_returned(tiny_cache: Cache) -> None:
    trainer, batch = make(tiny_cache, "optimizer.lr=0.25"), one_batch(tiny_cache)
    assert isinstance(batch, Batch)
    assert trainer.step(batch, 0)[1] == pytest.approx(0.25)
