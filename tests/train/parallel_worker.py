"""What each of two ranks of test_sharding.py trains of each case."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdcache.cache import open_cache
from kdcache.distributed.env import WorkerEnv, worker_env
from kdcache.distributed.process_group import process_group, sum_over_ranks
from kdcache.methods.base import Method
from kdcache.methods.feature import feature
from kdcache.methods.logit import logit
from kdcache.terms.leap import Leap
from kdcache.terms.local import Local
from kdcache.terms.proteus import Proteus
from kdcache.train.config import RunConfig
from kdcache.train.setup import make_loader, prepare
from kdcache.train.sharding import own_part
from kdcache.train.trainer import Trainer
from tests.conftest import STUDENT_KWARGS
from tests.train.support import tiny_run

CPU = torch.device("cpu")
# With Adam what has no gradient but rounding errors, as the bias of keys, would move by whole steps.
SGD = ("optimizer.name=momentum", "optimizer.lr=0.1", "epochs=1")
DEEP = {**STUDENT_KWARGS, "embed_dim": 24, "depth": 3}


def of_blocks(*terms: Any) -> RunConfig:
    return tiny_run(*SGD, "data.codec=none", student_kwargs=DEEP, method=Method(name="blocks", terms=terms))


FEATURE = feature(teacher=("blocks.1/patch",))
CASES: dict[str, RunConfig] = {
    "feature, clipped, averaged": tiny_run(*SGD, "optimizer.clip_grad=0.5", "ema_decay=0.5", method=FEATURE),
    "logit, in pieces, checkpointed": tiny_run(
        *SGD, "accumulate=2", "grad_checkpointing=true", method=logit()
    ),
    "lift": tiny_run(*SGD),
    "feature, adamw": tiny_run("optimizer.lr=1e-3", "optimizer.eps=1e-3", "epochs=1", method=FEATURE),
    "feature, bf16": tiny_run(*SGD, "precision=bf16", method=FEATURE),
    "local": of_blocks(Local()),
    "proteus": of_blocks(Proteus(masked_weight=0.0)),
    "leap": of_blocks(Leap(max_steps=2, threshold=1.0, start="first")),
    "convnext": tiny_run(
        *SGD, "image_size=32", "ema_decay=0.5", student="convnext_atto", method=logit(),
        student_kwargs={"depths": [1, 1, 1, 1], "dims": [16, 24, 32, 48]},
    ),
}  # fmt: skip
# Batch statistics are those of a rank's part of a batch, so that two processes do not have the losses of one.
OF_BATCHES = {"resnet": tiny_run(*SGD, "image_size=32", "ema_decay=0.5", student="resnet18", student_kwargs={},
                                 method=logit())}  # fmt: skip
OF_BLOCKS = ("local", "proteus", "leap")


def trained(name: str, roots: tuple[Path, Path], env: WorkerEnv, **changes: Any) -> dict[str, Any]:
    """Losses (means over the ranks) and what there is after them: state, logits, how many weights a rank holds."""
    config = replace({**CASES, **OF_BATCHES}[name], **changes)
    cache = open_cache(roots[name in OF_BLOCKS])
    setup = prepare(config, cache)
    loader = make_loader(config, cache, setup, env, CPU)
    trainer = Trainer(config, setup, env, CPU, steps_per_epoch=len(loader))
    losses: list[float] = []
    for step, batch in enumerate(loader):
        loss = trainer.step(batch, step)[0]["loss"]
        losses.append(float(sum_over_ranks(loss, env)) / env.world_size)
    held = sum(own_part(each.detach()).numel() for each in trainer.student.parameters())
    images = torch.linspace(-1, 1, 2 * 3 * setup.spec.image_size**2).reshape(2, 3, setup.spec.image_size, -1)
    whole = trainer.whole_student().eval()
    with torch.inference_mode():
        logits = whole(images)
    return {"losses": losses, "state": trainer.state_dict(), "logits": logits, "held": held}


def main(tiny: str, blocks: str, out: str, *names: str) -> None:
    env = worker_env()
    torch.set_num_threads(1)
    with process_group(env, CPU):
        roots = Path(tiny), Path(blocks)
        found = {
            parallel: {name: trained(name, roots, env, parallel=parallel) for name in names}
            for parallel in ("ddp", "fsdp")
        }
    if env.is_main:
        torch.save(found, out)
