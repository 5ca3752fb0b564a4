"""Files of the Hugging Face hub: downloaded where it answers, else from the local cache, without long retries."""

import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from kdcache.errors import ModelError, Remedy

# As timm looks for them.
WEIGHTS_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
# The hub's own library repeats a request that finds no network for half a minute, once for each name of a file.
_TIMEOUT_S = 5.0


@cache
def hub_problem() -> str:
    """Why the hub cannot be reached; empty where it answers. A process asks once, and waits five seconds at most."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    found: list[str] = []
    # A thread, because looking up a name has no timeout.
    asking = threading.Thread(target=lambda: found.append(_ask(constants.ENDPOINT)), daemon=True)
    asking.start()
    asking.join(_TIMEOUT_S)
    problem = found[0] if found else f"no answer within {_TIMEOUT_S:g} s"
    return f"{constants.ENDPOINT} cannot be reached ({problem})" if problem else ""


def hub_file(model_id: str, names: Sequence[str]) -> Path:
    """The first of some files that a model on the hub has.

    Args:
        model_id: ``ORG/NAME`` or ``ORG/NAME@REVISION``.
        names: Of files, the preferred first.

    Raises: ModelError for a model or file that the hub does not have, or that is not in the cache while the hub cannot
        be reached.
    """
    repository, _, revision = model_id.partition("@")
    problem = hub_problem()
    for name in names:
        try:
            find = _cached if problem else _downloaded
            if (path := find(repository, name, revision or None)) is not None:
                return path
        except (OSError, ValueError) as error:  # what the hub's library raises, from a wrong name to a lost connection
            reason = str(error).strip().split("\n", 1)[0]
            raise ModelError(f"hf-hub:{model_id}: {reason or type(error).__name__}", remedy=_remedy(names)) from None
    wanted = " or ".join(names)
    if problem:
        raise ModelError(
            f"hf-hub:{model_id}: {wanted} is not in the local cache ({constants.HF_HUB_CACHE}), and {problem}",
            remedy=_remedy(names),
        )
    raise ModelError(f"hf-hub:{model_id}: it has no {wanted}, so it is not a model that timm saved")


def _remedy(names: Sequence[str]) -> Remedy:
    return Remedy.LOCAL_MODEL if "config.json" in names else Remedy.LOCAL_WEIGHTS


def _ask(address: str) -> str:
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return ""  # it answers
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        # Which certificates hold is known to the hub's own library.
        return "" if isinstance(reason, ssl.SSLError) else str(reason)
    return ""


def _cached(repository: str, name: str, revision: str | None) -> Path | None:
    found = try_to_load_from_cache(repository, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _downloaded(repository: str, name: str, revision: str | None) -> Path | None:
    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return None
