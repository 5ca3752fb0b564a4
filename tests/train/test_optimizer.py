import pytest
import torch
from torch import nn

from kdcache.students.lift import LiftChange
from kdcache.students.student import StudentSpec, build_student
from kdcache.train.optimizer import LearningRate, OptimizerConfig, SchedulerConfig, can_be_fused, make_optimizer


def rates(
    scheduler: SchedulerConfig, *, epochs: int, steps_per_epoch: int, batch_size: int, steps: list[int]
) -> list[float]:
    optimizer = make_optimizer(nn.Linear(2, 2), OptimizerConfig(), batch_size=batch_size)
    rate = LearningRate(optimizer, scheduler, epochs=epochs, steps_per_epoch=steps_per_epoch)
    return [rate.set(step) for step in steps]


def test_the_papers_trace() -> None:
    """Batch 2048, 300 epochs: epochs 0 and 1 both at 1e-6, the peak at epoch 6."""
    found = rates(
        SchedulerConfig(warmup_epochs=5, step="epoch"), epochs=300, steps_per_epoch=10, batch_size=2048,
        steps=[epoch * 10 for epoch in range(7)],
    )  # fmt: skip
    assert found == pytest.approx([1e-6, 1e-6, 0.0004008, 0.0008006, 0.0012004, 0.0016002, 0.0019986], rel=1e-4)


def test_per_update_it_rises_and_falls() -> None:
    found = rates(SchedulerConfig(warmup_epochs=1), epochs=4, steps_per_epoch=10, batch_size=512, steps=list(range(40)))
    assert found[0] == pytest.approx(5e-4 * 5e-4)
    assert found[:10] == sorted(found[:10])
    assert found[10:] == sorted(found[10:], reverse=True)
    # timm counts the warm-up as part of the cosine, as the paper's trace does: the peak itself is passed by.
    assert 0.85 * 5e-4 < max(found) < 5e-4
    assert found[-1] < 1e-5


def test_the_rate_is_a_function_of_the_step_alone() -> None:
    forwards = rates(SchedulerConfig(), epochs=3, steps_per_epoch=5, batch_size=64, steps=list(range(15)))
    jump = rates(SchedulerConfig(), epochs=3, steps_per_epoch=5, batch_size=64, steps=[11, 3, 7])
    assert jump == [forwards[11], forwards[3], forwards[7]]


def test_torchs_own_optimizers_are_fused_on_a_gpu_and_timms_are_not() -> None:
    assert [can_be_fused(name) for name in ("adamw", "sgd", "lamb", "nadamw")] == [True, True, False, False]
    assert not make_optimizer(nn.Linear(2, 2), OptimizerConfig(), batch_size=8).param_groups[0]["fused"]


def test_small_batches_never_end_above_their_peak() -> None:
    found = rates(SchedulerConfig(), epochs=2, steps_per_epoch=5, batch_size=8, steps=list(range(10)))
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(5e-4 * 8 / 512)


def test_biases_norms_and_embeddings_are_not_decayed() -> None:
    spec = StudentSpec(
        name="vit_tiny_patch16_224", num_classes=5, image_size=16, change=LiftChange(width=24),
        kwargs={"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3},
    )  # fmt: skip
    student = build_student(spec)
    optimizer = make_optimizer(student, OptimizerConfig(), batch_size=64)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    for name, parameter in student.named_parameters():
        expected = parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token"))
        assert (id(parameter) in decayed) == expected, name


def test_defaults_are_adamw_with_the_papers_numbers() -> None:
    optimizer = make_optimizer(nn.Linear(2, 2), OptimizerConfig(), batch_size=2048)
    assert isinstance(optimizer, torch.optim.AdamW)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (pytest.approx(2e-3), (0.9, 0.999), 1e-8)
    assert OptimizerConfig(lr=0.1).peak_lr(7) == 0.1


@pytest.mark.parametrize("values", [{"lr": 0.0}, {"clip_grad": -1.0}])
def test_mistakes_are_named(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be > 0"):
        OptimizerConfig(**values)
    with pytest.raises((ValueError, AssertionError)):
        rates(SchedulerConfig(name="zigzag"), epochs=1, steps_per_epoch=1, batch_size=8, steps=[0])


def test_short_runs_warm_up_briefly() -> None:
    assert [SchedulerConfig().warmup(epochs) for epochs in (1, 9, 10, 30, 300)] == [0, 0, 1, 3, 5]
