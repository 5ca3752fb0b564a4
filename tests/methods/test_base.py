import pytest
import torch
import torch.nn.functional as F

from kdcache.cache import Cache
from kdcache.methods import METHODS, LiftConfig, LogitConfig, StandaloneConfig, WideLastConfig
from kdcache.methods.lift import LiftMethod
from kdcache.methods.logit import Logit
from tests.methods.support import one_batch, student_says, targets_of


def test_the_total_is_the_papers(tiny_cache: Cache) -> None:
    """(1 - a) CE + a T^2 KL + w MSE, with label smoothing 0.1, a = 0.9, T = 1, w = 0.2."""
    batch = one_batch(tiny_cache)
    logits, tokens = student_says(24)
    targets = targets_of(batch, logits="head-logits-fp16", features="blocks-1-patch-fp16")
    assert targets.logits is not None
    assert targets.features is not None
    terms = LiftMethod(LiftConfig()).loss(logits, tokens, batch.labels, targets, None)
    ce = F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
    teacher = torch.softmax(targets.logits.decode(), dim=1)
    kl = (teacher * (teacher.log() - torch.log_softmax(logits, dim=1))).sum(dim=1).mean()
    mse = ((tokens - targets.features.decode()) ** 2).mean()
    torch.testing.assert_close(terms["ce"], ce)
    torch.testing.assert_close(terms["kl"], kl, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(terms["feature"], mse)
    torch.testing.assert_close(terms["loss"], 0.1 * ce + 0.9 * kl + 0.2 * mse, rtol=1e-4, atol=1e-6)


def test_temperature_scales_the_gradient_back(tiny_cache: Cache) -> None:
    batch = one_batch(tiny_cache)
    logits, _ = student_says(24)
    targets = targets_of(batch, logits="head-logits-fp16")
    hot = Logit(LogitConfig(temperature=4.0)).loss(logits, None, batch.labels, targets, None)["kl"]
    assert targets.logits is not None
    p, q = (F.log_softmax(each / 4, dim=1) for each in (targets.logits.decode(), logits))
    torch.testing.assert_close(hot, 16 * (p.exp() * (p - q)).sum(1).mean(), rtol=1e-4, atol=1e-6)


def test_terms_of_weight_zero_and_one(tiny_cache: Cache) -> None:
    batch = one_batch(tiny_cache)
    logits, tokens = student_says(24)
    only_kl = Logit(LogitConfig(logit_weight=1.0))
    assert not only_kl.needs_labels
    targets = targets_of(batch, logits="head-logits-topk3")
    assert set(only_kl.loss(logits, None, batch.labels, targets, None)) == {"loss", "kl"}
    only_features = LiftMethod(LiftConfig(logit_weight=0.0))
    targets = targets_of(batch, features="blocks-1-patch-int8")
    assert set(only_features.loss(logits, tokens, batch.labels, targets, None)) == {"loss", "ce", "feature"}


def test_missing_targets_are_a_mistake_and_never_ignored(tiny_cache: Cache) -> None:
    batch = one_batch(tiny_cache)
    logits, tokens = student_says(24)
    with pytest.raises(ValueError, match="got logits and no features"):
        LiftMethod(LiftConfig()).loss(logits, tokens, batch.labels, targets_of(batch, logits="head-logits-fp16"), None)


def test_top_k_needs_temperature_one(tiny_cache: Cache) -> None:
    column = tiny_cache.find_column(kind="logits", codec="topk")
    Logit(LogitConfig()).check_logits(column)
    with pytest.raises(
        ValueError, match=r"head-logits-topk3 keeps the largest and the others' mass .* set method.temperature=1"
    ):
        Logit(LogitConfig(temperature=2.0)).check_logits(column)


def test_widths() -> None:
    assert LiftConfig().resolve(384) == 384
    assert LiftConfig(width=256, feature_weight=0.0).resolve(384) == 256
    with pytest.raises(ValueError, match=r"method.width = 256 differs from the teacher's 384"):
        LiftConfig(width=256).resolve(384)
    with pytest.raises(ValueError, match="widelast takes its width from a patch column"):
        WideLastConfig(feature_weight=0.0).resolve(0)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (StandaloneConfig, {"label_smoothing": 1.5}, "label_smoothing"),
        (LogitConfig, {"logit_weight": -0.1}, "logit_weight"),
        (LogitConfig, {"temperature": 0.0}, "temperature"),
        (LiftConfig, {"feature_weight": -1.0}, "feature_weight"),
        (LiftConfig, {"feature_loss": "l3"}, "feature_loss"),
        (LiftConfig, {"width": 0}, "width"),
    ],
)
def test_mistakes_are_named(config: type, values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**values)


def test_names_and_configurations_agree() -> None:
    for name, method in METHODS.items():
        assert method.config_type().name == name  # type: ignore[call-arg]


def test_methods_have_only_the_settings_they_use() -> None:
    with pytest.raises(TypeError):
        StandaloneConfig(feature_weight=1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        LogitConfig(feature_weight=1.0)  # type: ignore[call-arg]
