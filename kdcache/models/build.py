"""Building timm models by name, and loading weights that may or may not fit."""

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import kdcache.models.multi_depth  # noqa: F401  registers its models with timm
from kdcache.errors import ModelError, Remedy
from kdcache.models.arguments import check_arguments
from kdcache.models.hub import WEIGHTS_FILES, hub_file, hub_problem
from kdcache.models.names import is_elsewhere, resolve_name
from kdcache.models.state_dicts import StateDict, find_weights
from kdcache.models.weights_file import read_weights_file

_MAX_NAMED = 4
# In the names of tensors whose shape follows from the size of the image, or from that of a patch.
_POSITIONS = ("pos_embed", "relative_position", "rel_pos")
_PATCHES = ("patch_embed",)


def create_timm_model(
    name: str,
    *,
    pretrained: bool = False,
    kwargs: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a timm model.

    Args:
        name: A timm model name, with or without a pretrained tag.
        pretrained: Whether to load timm's weights for it from the hub.
        kwargs: Passed to the model; see `check_arguments` for what is allowed, wherever it comes from.
        settings: In place of those of timm's configuration; see TimmModel.

    Raises: ModelError naming what timm knows, what the model takes or may take, or why the hub gave nothing.
    """
    check_model(name, kwargs or {})
    overlay = {**(settings or {}), **(_source_without_network(name) if pretrained else {})}
    try:
        return timm.create_model(name, pretrained=pretrained, pretrained_cfg_overlay=overlay or None, **(kwargs or {}))
    except TypeError as error:
        raise ModelError(
            f"{name} does not take these arguments ({error}); see the model in timm's documentation"
        ) from None
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(f"{name} cannot be built with {dict(kwargs or {})}: {error}") from None
    except OSError as error:
        raise ModelError(
            f"the weights of {name} did not come from the hub ({error})",
            remedy=Remedy.LOCAL_WEIGHTS,
        ) from None


def _source_without_network(name: str) -> dict[str, Any]:
    """Where timm finds the weights of a name while the hub cannot be reached; empty where it can, or is not needed.

    Raises: ModelError where they are not in the local cache.
    """
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag: building says so
        return {}
    if config is None or not config.hf_hub_id or not hub_problem():
        return {}
    file = hub_file(config.hf_hub_id, [config.hf_hub_filename] if config.hf_hub_filename else WEIGHTS_FILES)
    return {"file": str(file), "custom_load": config.custom_load}


def check_model(name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse a name that timm does not know and arguments that are not plain settings of its architecture.

    Raises: ModelError with the nearest names, or what is allowed.
    """
    if is_elsewhere(name):
        raise ModelError(f"{name!r} is the name of a model outside timm, which is resolved first (`resolve_name`)")
    if name.split(".")[0] not in timm.list_models():
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them"
        raise ModelError(f"timm {timm.__version__} has no model {name!r}; {hint}")
    check_arguments(name, kwargs)


def size_arguments(name: str, image_size: int) -> dict[str, int]:
    """What a timm model must be told to take images of (S, S).

    Families of a fixed input size (ViT, DeiT, BEiT, EVA, CaiT, Swin, MaxViT, Hiera, ...) take ``img_size``, from which
    they size position embeddings, windows and masks; others (ResNet, ConvNeXt, MobileNet, ...) take any size and no
    such argument. timm's configuration of the name tells which. An unknown name or tag needs nothing here:
    `create_timm_model` refuses it.

    Args:
        name: timm model name, with or without a tag.
        image_size: S, pixels.
    """
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        return {}
    return {"img_size": image_size} if config is not None and config.fixed_input_size else {}


def load_weights(model: nn.Module, file: Path | str, *, other_classes: bool = False) -> str | None:
    """Load a local checkpoint, of any training script: nothing in it is run.

    Weights that do not fit as they are (original releases, position embeddings of another image size) go through timm's
    own filter for this architecture.

    Args:
        model: The model.
        file: The file, ``FILE:NAME`` for one of several sets of weights in it, or a model's name as `resolve_name`
            takes it.
        other_classes: Whether the file may be of a model with other classes or none, whose classifier
            is then left out.

    Returns: which weights of several were taken, and what was left out, in a sentence; None where there was no choice.
    Raises: ModelError naming the tensors that are missing, unexpected or of another shape.
    """
    path, found = _read_checkpoint(model, file)
    weights, notes = found.weights, [found.note] if found.note else []
    wanted = model.state_dict()
    if {name: each.shape for name, each in weights.items()} != {name: each.shape for name, each in wanted.items()}:
        weights = _filtered(model, weights)
        notes += _resized(found.weights, weights)
    if other_classes and (kept := _without_other_classifier(model, weights)) is not weights:
        notes.append(_other_classifier(model, weights))
        weights = kept
    missing = sorted(wanted.keys() - weights.keys())
    unexpected = sorted(weights.keys() - wanted.keys())
    reshaped = [
        f"{key} {tuple(weights[key].shape)}, wanted {tuple(wanted[key].shape)}{_meaning(model, key)}"
        for key in wanted
        if key in weights and weights[key].shape != wanted[key].shape
    ]
    if missing or unexpected or reshaped:
        problems = [
            f"{title} {', '.join(names[:_MAX_NAMED])}"
            + (f" and {len(names) - _MAX_NAMED} more" * (len(names) > _MAX_NAMED))
            for title, names in (("missing:", missing), ("unexpected:", unexpected), ("other shape:", reshaped))
            if names
        ]
        raise ModelError(
            f"{path} does not fit {type(model).__name__}: {'; '.join(problems)}",
            remedy=Remedy.MODEL_OF_WEIGHTS,
        )
    _refuse_other_kinds(path, weights, wanted)
    model.load_state_dict(weights)
    return f"{path}: {'; '.join(notes)}" if notes else None


def num_trained_classes(model: nn.Module, weights: str) -> int | None:
    """Number of classes K' of the classifier among trained weights; None where they hold none.

    Args:
        model: The timm model they are of, with any number of classes.
        weights: ``hub`` or a local file, as its loading took it.

    Raises: ModelError for a file that cannot be read.
    """
    if weights == "hub":
        return (getattr(model, "pretrained_cfg", None) or {}).get("num_classes") or None
    tensors = _filtered(model, _read_checkpoint(model, weights)[1].weights)
    found = [tensors[key].shape[0] for name in _classifier_names(model) if (key := f"{name}.weight") in tensors]
    return found[0] if found else None


def count_parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def weights_sha256(model: nn.Module) -> str:
    """sha256 of a model's state, independent of how it was stored."""
    return tensors_sha256(model.state_dict())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def _read_checkpoint(model: nn.Module, file: Path | str) -> tuple[Path, StateDict]:
    if is_elsewhere(str(file)):
        file = resolve_name(str(file)).weights or file
    if "://" in str(file):
        raise ModelError(f"{file}: URLs are not read; download the file, and name that")
    path, choice = Path(file).expanduser(), None
    name, colon, last = str(file).rpartition(":")
    if colon and not path.exists():
        path, choice = Path(name).expanduser(), last
    return path, find_weights(read_weights_file(path), model.state_dict(), choice=choice, where=str(path))


def _without_other_classifier(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the model's own classifier where theirs is of another shape, or not there."""
    classifiers = _classifier_names(model)
    own = {key: each for key, each in model.state_dict().items() if key.rpartition(".")[0] in classifiers}
    if all(key in weights and weights[key].shape == each.shape for key, each in own.items()):
        return weights
    kept = {key: each for key, each in weights.items() if key.rpartition(".")[0] not in classifiers}
    return {**kept, **own}


def _refuse_other_kinds(path: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse tensors that torch would cast without a word, or cannot copy."""
    for key, each in weights.items():
        problem = ""
        if wanted[key].is_floating_point() and not each.is_floating_point():
            problem = f"holds {str(each.dtype).removeprefix('torch.')}, as quantised weights do; wanted floating point"
        elif each.is_meta or each.layout is not torch.strided:
            problem = "has no dense values; save the weights themselves"
        if problem:
            raise ModelError(f"{path}: {key} {problem}")


def _other_classifier(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Which classifier was left out, in words."""
    own = model.state_dict()
    pairs = [(weights.get(key), own.get(key)) for key in (f"{name}.weight" for name in _classifier_names(model))]
    theirs, ours = next(((a, b) for a, b in pairs if b is not None), (None, None))
    if theirs is None or ours is None:
        return "it has no classifier of the model's kind, so that the model's own begins fresh"
    return f"its classifier is of {len(theirs)} classes, the model's is of {len(ours)} and begins fresh"


def _resized(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """What the architecture's filter made of tensors of another image or patch size, in words."""
    changed = [
        key
        for key, each in after.items()
        if key in before and before[key].numel() != each.numel() and before[key].dim() == each.dim()
    ]
    found: list[str] = []
    for what, kind in ((_POSITIONS, "image"), (_PATCHES, "patch")):
        keys = [key for key in changed if any(word in key for word in what)]
        if keys:
            shapes = f"{tuple(before[keys[0]].shape)} to {tuple(after[keys[0]].shape)}"
            found.append(f"it is of another {kind} size: {keys[0]} was resized from {shapes}")
    return found


def _meaning(model: nn.Module, key: str) -> str:
    """What another shape of a tensor comes from, where that can be told."""
    if key.rpartition(".")[0] in _classifier_names(model):
        return " (it is of other classes)"
    return " (it is of another image size)" if any(word in key for word in _POSITIONS) else ""


def _classifier_names(model: nn.Module) -> tuple[str, ...]:
    known: Any = getattr(model, "pretrained_cfg", None) or {}
    names = known.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _filtered(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights after the architecture's own renaming, or as they are where that does not apply."""
    module = __import__(type(model).__module__, fromlist=["checkpoint_filter_fn"])
    rename = getattr(module, "checkpoint_filter_fn", None)
    if rename is None:
        return weights
    try:
        return dict(rename(weights, model))
    except (
        Exception
    ):  # a foreign state dict can break the filter anywhere; the comparison that follows names the misfit
        return weights
