"""Students of CaiT-S24 on ImageNet-1K, as arXiv:2511.15572 trains them; single seeds, so gaps below .2 say little.

The cache for all of them but the two of other teachers::

    kdcache extract --data 'imagenet/train-{0000..1023}.tar' --teacher cait_s24_224 --tap blocks.-1/patch \\
        --tap head/logits --codec int8 --views 3 --view-recipe deit --out caches/inet
"""

from dataclasses import replace
from functools import partial

from kdcache.methods.base import Method
from kdcache.methods.lift import lift
from kdcache.methods.logit import logit
from kdcache.methods.none import none
from kdcache.methods.spectral import spectral
from kdcache.methods.wide_last import wide_last
from kdcache.recipes.protocol import CAIT, PROTOCOL_DIFFERS, papers_run
from kdcache.students.change import Change
from kdcache.students.lift import LiftChange
from kdcache.students.wide_last import WideLastChange
from kdcache.train.config import RunConfig

DIFFERS = (
    f"{PROTOCOL_DIFFERS} New layers of Lift and WideLast begin as in the released code (init=released), which also "
    "decays position embeddings and the class token."
)
COST = "Cost: 300 epochs of 1.28 M images; int8 features of CaiT-S24 take 96 GB for each view of all images."
_UNIFORM_WIDTH = 219
_LAST = ("blocks.-1/patch",)
_lift, _wide_last = partial(lift, init="released"), partial(wide_last, init="released")


def _changed(method: Method, change: Change, teacher: str = CAIT) -> RunConfig:
    return papers_run(replace(method, change=change), teacher=teacher)


def _widelast_features(teacher: str) -> RunConfig:
    return _changed(spectral(logit_weight=0.0, teacher=_LAST), WideLastChange(init="released"), teacher)


def deit_tiny_none() -> RunConfig:
    """DeiT-Tiny without a teacher. Published top-1 74.86."""
    return papers_run(none(), teacher=None)


def deit_tiny_spectral() -> RunConfig:
    """DeiT-Tiny, features alone (SpectralKD, last block). Published top-1 75.07."""
    return papers_run(spectral(logit_weight=0.0, teacher=_LAST))


def deit_tiny_logit() -> RunConfig:
    """DeiT-Tiny, logits alone. Published top-1 76.99 (best epoch)."""
    return papers_run(logit())


def deit_tiny_logit_spectral() -> RunConfig:
    """DeiT-Tiny, logits and SpectralKD on the last block. Published top-1 76.83."""
    return papers_run(spectral(teacher=_LAST))


def lift_none() -> RunConfig:
    """Lift's architecture without a teacher: what head and width alone are worth. Published top-1 75.41."""
    return papers_run(_lift(logit_weight=0.0, feature_weight=0.0, width=384), teacher=None)


def lift_none_256() -> RunConfig:
    """Lift's architecture at width 256 without a teacher. Published top-1 75.46."""
    return papers_run(_lift(logit_weight=0.0, feature_weight=0.0, width=256), teacher=None)


def lift_none_320() -> RunConfig:
    """Lift's architecture at width 320 without a teacher. Published top-1 75.53."""
    return papers_run(_lift(logit_weight=0.0, feature_weight=0.0, width=320), teacher=None)


def lift_none_448() -> RunConfig:
    """Lift's architecture at width 448 without a teacher. Published top-1 75.23."""
    return papers_run(_lift(logit_weight=0.0, feature_weight=0.0, width=448), teacher=None)


def lift_mse() -> RunConfig:
    """Lift, features alone (mean squared error). Published top-1 76.61."""
    return papers_run(_lift(logit_weight=0.0, teacher=_LAST))


def lift_logit() -> RunConfig:
    """Lift, logits alone: the control of its feature term. Published top-1 77.23."""
    return papers_run(_lift(feature_weight=0.0, width=384))


def lift_logit_mse() -> RunConfig:
    """Lift, logits and mean squared error. Published top-1 77.50."""
    return papers_run(_lift(teacher=_LAST))


def lift_logit_spectral() -> RunConfig:
    """Lift, logits and SpectralKD. Published top-1 77.53."""
    return _changed(spectral(teacher=_LAST), LiftChange(init="released"))


def widelast_none() -> RunConfig:
    """WideLast's architecture without a teacher. Published top-1 75.54."""
    return papers_run(_wide_last(logit_weight=0.0, feature_weight=0.0, width=384), teacher=None)


def widelast_mse() -> RunConfig:
    """WideLast, features alone (mean squared error). Published top-1 77.15."""
    return papers_run(_wide_last(logit_weight=0.0, teacher=_LAST))


def widelast_logit() -> RunConfig:
    """WideLast, logits alone: the control of its feature term. Published top-1 77.88."""
    return papers_run(_wide_last(feature_weight=0.0, width=384))


def widelast_logit_mse() -> RunConfig:
    """WideLast, logits and mean squared error. Published top-1 78.23."""
    return papers_run(_wide_last(teacher=_LAST))


def widelast_logit_spectral() -> RunConfig:
    """WideLast, logits and SpectralKD. Published top-1 78.16."""
    return _changed(spectral(teacher=_LAST), WideLastChange(init="released"))


def widelast_spectral_deit_small() -> RunConfig:
    """WideLast, features of DeiT-Small alone (SpectralKD). Published top-1 75.73, presumably without logits."""
    return _widelast_features("deit_small_patch16_224")


def widelast_spectral_deit3_small() -> RunConfig:
    """WideLast, features of DeiT3-Small (21k) alone (SpectralKD). Published top-1 76.50, presumably without logits."""
    return _widelast_features("deit3_small_patch16_224.fb_in22k_ft_in1k")


def uniform_219_none() -> RunConfig:
    """DeiT-Tiny at width 219 throughout, WideLast's control of size, without a teacher. No figure was published."""
    return replace(deit_tiny_none(), student_kwargs={"embed_dim": _UNIFORM_WIDTH})


def uniform_219_spectral() -> RunConfig:
    """DeiT-Tiny at width 219 throughout, features alone (SpectralKD). No figure was published."""
    return replace(deit_tiny_spectral(), student_kwargs={"embed_dim": _UNIFORM_WIDTH})
