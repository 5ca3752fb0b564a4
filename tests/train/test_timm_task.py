"""timm's contract for training tasks, kept by the cache's: forward, averages, checkpoints, compilation, processes."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from kdcache.cache import Cache, open_cache
from kdcache.methods.base import Method
from kdcache.methods.none import none
from kdcache.stream.batch import Batch
from kdcache.students.lift import LiftChange
from kdcache.terms import TERMS, load_term
from kdcache.train.setup import Setup, prepare
from tests.forked import start_ranks
from tests.methods.support import one_batch
from tests.train import timm_task_worker
from tests.train.support import tiny_run

pytest.importorskip("timm.task", reason="this timm has no training tasks")

from timm.task import resume_task_checkpoint
from timm.utils import CheckpointSaver

from kdcache.train.timm_task import CachedDistillationTask

ROOT = Path(__file__).parents[2]
LAST, FIRST = "blocks.2/patch", "blocks.0/patch"
# Two pairs of taps where a term takes pairs.
PAIRS: dict[str, Any] = {"teacher": (LAST, FIRST), "student_block": (-1, 0)}
SETTINGS: dict[str, dict[str, Any]] = {
    "cross-entropy": {},
    "logits": {},
    **dict.fromkeys(("tokens", "gram", "token-similarity", "projector"), PAIRS),
    **{name: {"teacher": (LAST,)} for name in ("spectral", "unic")},
    **{name: {} for name in ("local", "proteus", "leap")},
}
# `local` wants a student of the teacher's width.
SAME = {"patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3}


@pytest.fixture
def cache(blocks_root: Path) -> Cache:
    return open_cache(blocks_root)


def all_terms() -> Method:
    return Method(name="all", terms=tuple(load_term(name)(**each) for name, each in SETTINGS.items()))


def all_setup(cache: Cache, *settings: str) -> Setup:
    """A student, every term that there is, and pairs of several taps."""
    return prepare(tiny_run("data.codec=none", *settings, method=all_terms(), student_kwargs=SAME), cache)


def targets_of(batch: Batch, setup: Setup) -> dict[str, Any]:
    return {column.name: batch.targets[column.name] for column in setup.columns}


def steps(task: CachedDistillationTask, optimizer: torch.optim.Optimizer, cache: Cache, count: int) -> list[Tensor]:
    """Losses of some optimizer steps on one batch, with the same draws of the terms that draw."""
    torch.manual_seed(0)
    batch, setup, losses = one_batch(cache), all_setup(cache), []
    for _ in range(count):
        loss = task(batch.images, batch.labels, targets_of(batch, setup))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def test_every_term_there_is(cache: Cache) -> None:
    assert set(SETTINGS) == set(TERMS), "a new term belongs into this test"
    setup, batch = all_setup(cache), one_batch(cache)
    task = CachedDistillationTask(setup.step, verbose=False)
    result = task(batch.images, batch.labels, targets_of(batch, setup))
    assert set(result) == {"loss", "output", *SETTINGS}
    assert result["output"].shape == (8, 10)
    result["loss"].backward()
    missing = [name for name, each in setup.step.named_parameters() if each.grad is None and each.requires_grad]
    assert missing == []
    with pytest.raises(ValueError, match="give exactly those"):
        task(batch.images, batch.labels)


def test_a_method_without_targets(cache: Cache) -> None:
    task = CachedDistillationTask(prepare(tiny_run("data.codec=none", method=none()), cache).step, verbose=False)
    batch = one_batch(cache)
    assert torch.isfinite(task(batch.images, batch.labels)["loss"])
    assert task.get_task_state() == {}
    task.load_checkpoint_state(state_dict=task.get_checkpoint_state()["state_dict"])


def test_what_is_evaluated_is_the_network_under_timms_names(cache: Cache) -> None:
    setup = all_setup(cache)
    task = CachedDistillationTask(setup.step, verbose=False)
    assert task.get_eval_model() is setup.step.student.model
    plain = timm.create_model(setup.spec.name, img_size=16, num_classes=10, **setup.spec.kwargs)
    plain.load_state_dict(task.get_checkpoint_state()["state_dict"])
    assert task.get_eval_model(ema=True) is None


def test_averaged_weights(cache: Cache) -> None:
    task = CachedDistillationTask(all_setup(cache).step, verbose=False)
    task.setup_ema(decay=0.5)
    before = {name: each.clone() for name, each in task.get_checkpoint_state(ema=True)["state_dict_ema"].items()}
    steps(task, torch.optim.SGD(task.parameters(), lr=0.1), cache, 1)
    now = task.get_checkpoint_state()["state_dict"]
    task.update_ema()
    for name, each in task.get_checkpoint_state(ema=True)["state_dict_ema"].items():
        torch.testing.assert_close(each, (before[name] + now[name]) / 2)
    assert task.get_checkpoint_state(ema=True)["task_state_ema"]["adapters"]


def test_resuming_gives_the_same_losses(cache: Cache, tmp_path: Path) -> None:
    """Through timm's own saver: adapters are part of the state."""
    setup = all_setup(cache)
    task = CachedDistillationTask(setup.step, verbose=False)
    optimizer = torch.optim.AdamW(task.trainable_module.parameters(), lr=0.01)
    steps(task, optimizer, cache, 2)
    saver = CheckpointSaver(setup.step.student.model, optimizer, checkpoint_dir=str(tmp_path), task=task)
    saver.save_checkpoint(epoch=0)
    expected = steps(task, optimizer, cache, 2)
    torch.manual_seed(99)
    fresh = CachedDistillationTask(all_setup(cache, "seed=5").step)
    again = torch.optim.AdamW(fresh.trainable_module.parameters(), lr=0.01)
    assert resume_task_checkpoint(fresh, str(tmp_path / "last.pth.tar"), again, log_info=False) == 1
    assert torch.equal(torch.stack(steps(fresh, again, cache, 2)), torch.stack(expected))


def test_a_checkpoint_without_the_adapters_is_refused(cache: Cache) -> None:
    task = CachedDistillationTask(all_setup(cache).step, verbose=False)
    with pytest.raises(RuntimeError, match=r"Missing key.*tokens"):
        task.load_checkpoint_state(task.get_checkpoint_state()["state_dict"])
    with pytest.raises(RuntimeError, match="setup_ema"):
        task.load_task_state({}, ema=True)


def test_clipping_without_the_head(cache: Cache) -> None:
    setup = all_setup(cache)
    task = CachedDistillationTask(setup.step, verbose=False)
    every, some = list(task.get_clip_parameters()), list(task.get_clip_parameters(exclude_head=True))
    assert len(every) == len(list(setup.step.parameters()))
    assert {id(each) for each in every} - {id(each) for each in some} == {
        id(each) for each in setup.step.student.model.head.parameters()
    }


def test_clipping_without_the_head_of_a_lifted_student(tiny_cache: Cache) -> None:
    method = Method(name="lifted", terms=none().terms, change=LiftChange(width=8))
    setup = prepare(tiny_run("data.codec=none", method=method), tiny_cache)
    task = CachedDistillationTask(setup.step, verbose=False)
    every, some = list(task.get_clip_parameters()), list(task.get_clip_parameters(exclude_head=True))
    assert {id(each) for each in every} - {id(each) for each in some} == {
        id(each) for each in setup.step.student.model.head.parameters()
    }


# Dynamo itself looks at .grad of what it traces.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")
def test_compiled(cache: Cache) -> None:
    setup, batch = all_setup(cache), one_batch(cache)
    task = CachedDistillationTask(setup.step, verbose=False)
    task.load_checkpoint_state(task_state=task.get_task_state(), state_dict=task.get_eval_model().state_dict())
    torch.manual_seed(0)
    plain = task(batch.images, batch.labels, targets_of(batch, setup))
    assert task.compile(backend="eager") is task.get_eval_model()
    torch.manual_seed(0)
    compiled = task(batch.images, batch.labels, targets_of(batch, setup))
    torch.testing.assert_close(compiled, plain)
    assert "blocks.0.attn.qkv.weight" in task.get_checkpoint_state()["state_dict"]
    task.load_checkpoint_state(**task.get_checkpoint_state())


def test_two_processes_train_as_one(tiny_root: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        start_ranks(processes, timm_task_worker.main, str(tiny_root), str(tmp_path / f"{processes}.pt"))
    one, two = (torch.load(tmp_path / f"{processes}.pt") for processes in (1, 2))
    assert set(one) == {"state_dict", "task_state"}
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
