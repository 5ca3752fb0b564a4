import pytest

from kdcache.config import apply_settings, as_plain
from kdcache.errors import UsageError
from kdcache.methods.lift import lift
from kdcache.train.config import CheckpointConfig, EvalConfig, RunConfig


def test_everything_can_be_set_by_name() -> None:
    base = RunConfig(student="m", method=lift())
    changed = apply_settings(
        base, ["optimizer.weight_decay=0.1", "image_size=32", "data.window=3", "compile=true", "seed=7"]
    )
    assert changed.optimizer.weight_decay == 0.1
    assert changed.image_size == 32
    assert (changed.data.window, changed.compile, changed.seed) == (3, True, 7)


def test_terms_are_not_set_by_name() -> None:
    with pytest.raises(UsageError, match=r"method is a group; set one of method.name, method.terms, method.change"):
        apply_settings(RunConfig(student="m", method=lift()), ["method=logit"])


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"accumulate": 0},
        {"precision": "fp8"},
        {"cpu_threads": 0},
        {"ema_decay": 1.0},
        {"student_kwargs": {"num_classes": 3}},
    ],
)
def test_mistakes_are_named(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        RunConfig(student="m", method=lift(), **values)


def test_groups_check_themselves() -> None:
    with pytest.raises(ValueError, match="keep and every_steps"):
        CheckpointConfig(keep=0)
    with pytest.raises(ValueError, match="milestone_every must be at least 1"):
        CheckpointConfig(milestone_every=0)
    with pytest.raises(ValueError, match="every_epochs"):
        EvalConfig(every_epochs=0)


def test_it_is_recorded_whole() -> None:
    plain = as_plain(RunConfig(student="m", method=lift()))
    assert plain["method"]["name"] == "lift"
    assert [term["name"] for term in plain["method"]["terms"]] == ["cross-entropy", "logits", "tokens"]
    assert plain["method"]["change"] == {"name": "lift", "width": None, "init": "timm"}
    assert plain["optimizer"]["betas"] == [0.9, 0.999]


def test_how_weights_are_shared() -> None:
    with pytest.raises(ValueError, match="parallel must be one of ddp, fsdp, got 'zero'"):
        RunConfig(student="m", method=lift(), parallel="zero")
    with pytest.raises(ValueError, match="compile=true does not go with parallel=fsdp"):
        RunConfig(student="m", method=lift(), parallel="fsdp", compile=True)
