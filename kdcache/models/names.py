"""What users call a model: a timm name, one on the hub, or a folder, and what timm is to build for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import timm

from kdcache.errors import CorruptCacheError, ModelError
from kdcache.models.hub import WEIGHTS_FILES, hub_file
from kdcache.strict_json import load_json

_CONFIG = "config.json"
_HUB, _FOLDER, _TIMM = ("hf-hub:", "hf_hub:"), "local-dir:", "timm/"


@dataclass(frozen=True)
class TimmModel:
    """A timm model as data.

    Args:
        name: Architecture, with or without a tag.
        kwargs: Its further arguments.
        settings: Of timm's configuration (``mean``, ``std``, ``input_size``, ...), where the name has others.
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ResolvedName:
    """What a name stands for.

    Args:
        model: What is built.
        weights: File or folder of the trained weights; None for those that timm knows by the model's name.
        title: A short name, for folders.
    """

    model: TimmModel
    weights: Path | None
    title: str


class _Settings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How images are prepared for a model, as timm's configurations say it: nothing that names a file or an address."""

    input_size: tuple[int, int, int] | None = None
    interpolation: Annotated[str, msgspec.Meta(pattern=r"\A[a-z]{1,20}\Z")] | None = None
    crop_pct: Annotated[float, msgspec.Meta(gt=0, le=10)] | None = None
    crop_mode: Annotated[str, msgspec.Meta(pattern=r"\A[a-z]{1,20}\Z")] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[Annotated[float, msgspec.Meta(gt=0)], Annotated[float, msgspec.Meta(gt=0)],
               Annotated[float, msgspec.Meta(gt=0)]] | None = None  # fmt: skip
    num_classes: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None


def is_elsewhere(text: str) -> bool:
    """Whether a name is that of a model on the hub or in a folder, and not timm's own."""
    return text.startswith((*_HUB, _FOLDER, _TIMM))


def resolve_name(text: str) -> ResolvedName:
    """Find out what a name stands for; asks the hub for a model's configuration and weights where it names one.

    Args:
        text: A timm name, ``timm/NAME``, ``hf-hub:ORG/NAME`` (perhaps ``@REVISION``), or ``local-dir:FOLDER`` with a
            ``config.json`` and weights as timm saves them.

    Raises: ModelError for a model that is not there, or a configuration that is not timm's.
    """
    if text.startswith(_HUB):
        model_id = text.partition(":")[2]
        if _is_timms(model_id):
            return _plain(model_id.removeprefix(_TIMM))
        model = _read_config(hub_file(model_id, [_CONFIG]), hub_id=model_id)
        return ResolvedName(model, hub_file(model_id, WEIGHTS_FILES), model_id.partition("@")[0].rpartition("/")[2])
    if text.startswith(_FOLDER):
        folder = Path(text.removeprefix(_FOLDER)).expanduser()
        if not (folder / _CONFIG).is_file():
            raise ModelError(f"{text}: no {_CONFIG} there; wanted a folder that timm's save_for_hf or kdcache exported")
        return ResolvedName(_read_config(folder / _CONFIG), folder, folder.resolve().name)
    return _plain(text.removeprefix(_TIMM))


def read_settings(config: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The settings among the values of a configuration that somebody else may have written.

    Args:
        config: As timm's; other keys are left out.
        where: For messages.

    Raises: ModelError for values of other types or out of range.
    """
    known = {name: config[name] for name in _Settings.__struct_fields__ if config.get(name) is not None}
    try:
        read = msgspec.convert(known, _Settings)
    except msgspec.ValidationError as error:
        raise ModelError(f"{where}: not a configuration of timm ({error})") from None
    return {name: getattr(read, name) for name in known}


def with_square_size(kwargs: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Arguments of a model with a size given as ``[S, S]`` as the number S, which the views of a cache need.

    Args:
        kwargs: The arguments.
        where: For messages.

    Raises: ModelError for other shapes.
    """
    sides = kwargs.get("img_size")
    if sides is None:
        return dict(kwargs)
    sides = [sides] if isinstance(sides, int) else sides
    if not isinstance(sides, list | tuple) or len(sides) not in (1, 2) or len({*map(str, sides)}) > 1:
        raise ModelError(f"{where}: img_size={kwargs['img_size']!r} is refused; views are square, wanted one number")
    if not isinstance(sides[0], int) or sides[0] < 1:
        raise ModelError(f"{where}: img_size={kwargs['img_size']!r} is refused; wanted a number of pixels")
    return {**kwargs, "img_size": sides[0]}


def _plain(name: str) -> ResolvedName:
    return ResolvedName(TimmModel(name), None, name)


def _is_timms(model_id: str) -> bool:
    """Whether timm itself knows this model on the hub: then its name says all."""
    try:
        config = timm.get_pretrained_cfg(model_id.removeprefix(_TIMM))
    except RuntimeError:
        return False
    return config is not None and config.hf_hub_id == model_id


def _read_config(path: Path, *, hub_id: str | None = None) -> TimmModel:
    try:
        config = load_json(path.read_bytes(), where=str(path))
    except CorruptCacheError as error:
        raise ModelError(str(error)) from None
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise ModelError(f"{path}: names no architecture, so it is not a configuration of timm")
    # Older files of timm hold the settings beside the architecture.
    known, kwargs = config.get("pretrained_cfg") or config, config.get("model_args") or {}
    if not isinstance(known, dict) or not isinstance(kwargs, dict):
        raise ModelError(f"{path}: pretrained_cfg and model_args are no tables, so it is not a configuration of timm")
    num_classes = config.get("num_classes", known.get("num_classes"))
    settings = read_settings({**known, "num_classes": num_classes}, where=str(path))
    if "num_classes" in settings:
        kwargs = {"num_classes": settings["num_classes"], **kwargs}
    # The name alone would stand for other weights.
    return TimmModel(
        config["architecture"],
        with_square_size(kwargs, where=str(path)),
        {**settings, "hf_hub_id": hub_id, "tag": None},
    )
