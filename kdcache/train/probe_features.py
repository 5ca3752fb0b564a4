"""One feature vector for each image from a frozen student, computed once and kept in the run folder."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kdcache.durable import make_folder, write_file
from kdcache.errors import UsageError
from kdcache.images import Source
from kdcache.models import Tap
from kdcache.pixels import normalize_pixels
from kdcache.students.student import Student
from kdcache.train.eval_images import eval_batches
from kdcache.views import EvalView

Token = Literal["class", "mean"]
_FOLDER = "probe"


class Features(NamedTuple):
    """Features that a frozen student gives for labelled images.

    Attributes:
        values: (n, C) fp32.
        labels: (n,) int64.
        num_bad: Images that could not be decoded and are not among them.
    """

    values: Tensor
    labels: Tensor
    num_bad: int

    def to(self, device: torch.device) -> "Features":
        """The same on a device."""
        return Features(self.values.to(device), self.labels.to(device), self.num_bad)


def token_feature(student: Student, images: Tensor, token: Token) -> Tensor:
    """Compute what a student's own classifier could read of images: after the final norm, before any head.

    Args:
        student: In evaluation mode.
        images: (B, 3, S, S), normalised.
        token: ``class``, or ``mean`` of the patch tokens (of the map, for a convolutional student). Of a student whose
            change makes tokens that its classifier reads, such as Lift, ``mean`` is of those.

    Returns: (B, C) fp32.
    Raises: UsageError for the class token of a student that has none, or does not classify by it.
    """
    student.set_taps([Tap("patch")])
    if student.taps[0].kind == "change":
        if token == "class":
            raise UsageError("this student classifies by the mean of its own tokens, not by a class token; choose mean")
        return student.outputs(images).tokens[0].mean(dim=1).float()
    network = student.network
    output: Tensor = network.forward_features(images)  # pyright: ignore[reportCallIssue]
    if token == "class":
        if output.dim() != 3 or getattr(network, "cls_token", None) is None:
            raise UsageError(f"{type(network).__name__} has no class token; choose mean")
        return output[:, 0].float()
    if output.dim() == 3:
        return output[:, int(getattr(network, "num_prefix_tokens", 0)) :].mean(dim=1).float()
    # Convolutional maps are (B, C, H, W), Swin's (B, H, W, C).
    space = (2, 3) if output.shape[1] == network.num_features else (1, 2)
    return output.mean(dim=space).float()


def student_features(
    student: Student, source: Source, view: EvalView, token: Token, *, batch_size: int, device: torch.device
) -> Features:
    """Run a student once over images in its evaluation view; undecodable ones are left out and counted.

    Args:
        student: On the device, in evaluation mode.
        source: Labelled images.
        view: How they are seen.
        token: As in `token_feature`.
        batch_size: Images in one forward.
        device: Where the student is.
    """
    values: list[Tensor] = []
    labels: list[int] = []
    bad = 0
    with torch.inference_mode():
        for pixels, positions, num_bad in eval_batches(source, view, range(len(source.images)), batch_size):
            bad += num_bad
            labels += [source.images[position].label for position in positions]
            if positions:
                images = normalize_pixels(torch.from_numpy(pixels).to(device), mean=view.mean, std=view.std)
                values.append(token_feature(student, images, token).cpu())
    # Inference tensors would be refused where the probe is trained.
    stacked = torch.cat(values).clone() if values else torch.empty(0, 0)
    return Features(stacked, torch.tensor(labels, dtype=torch.int64), bad)


def images_digest(source: Source) -> str:
    """sha256 over keys, labels and sizes of a source's images, without reading them where it keeps sizes apart."""
    digest = hashlib.sha256()
    for position, image in enumerate(source.images):
        digest.update(f"{image.key}\t{image.label}\t{source.size_bytes(position)}\n".encode())
    return digest.hexdigest()


def kept_features(run: Path, facts: dict[str, Any], compute: Callable[[], Features]) -> Features:
    """Read features of equal facts from the run folder, or compute them and write them there.

    Args:
        run: The run folder; files lie in its folder ``probe``.
        facts: Everything that decides the features, as plain values.
        compute: Called where there is no intact file of these facts.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    path = run / _FOLDER / f"features-{digest[:16]}.safetensors"
    if (found := _read(path, digest)) is not None:
        return found
    features = compute()
    tensors = {"values": features.values, "labels": features.labels}
    metadata = {"facts": digest, "num_bad": str(features.num_bad), "sha256": _sha256(tensors.values())}
    make_folder(path.parent)
    write_file(path, safetensors.torch.save(tensors, metadata=metadata))
    return features


def _read(path: Path, digest: str) -> Features | None:
    """Read the features from a file; None where there is no intact one of these facts."""
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            values, labels = file.get_tensor("values"), file.get_tensor("labels")
    except Exception:  # damage shows in many ways; whatever it is, the features are computed again
        return None
    if metadata.get("facts") != digest or metadata.get("sha256") != _sha256((values, labels)):
        return None
    return Features(values, labels, int(metadata["num_bad"]))


def _sha256(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for each in tensors:
        digest.update(each.contiguous().numpy().data)
    return digest.hexdigest()
