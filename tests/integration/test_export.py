"""A student trained on CIFAR-10, exported, and evaluated by plain timm alone: the same accuracy."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kdcache.cli.main import main
from tests.export.support import WITHOUT_KDCACHE, in_a_fresh_process

NUM_IMAGES = 300
# Only timm, torch and Pillow: what somebody who is given the folder has.
EVALUATE = """
import io, json, tarfile
import timm, torch
from PIL import Image

torch.set_num_threads(1)
model = timm.create_model("local-dir:export", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
images, labels = [], []
with tarfile.open("test.tar") as tar:
    for member in tar:
        data = tar.extractfile(member).read()
        if member.name.endswith(".cls"):
            labels.append(int(data))
        else:
            images.append(transform(Image.open(io.BytesIO(data)).convert("RGB")))
with torch.inference_mode():
    ranked = torch.cat([model(torch.stack(images[at : at + 64])).topk(5).indices for at in range(0, len(images), 64)])
hits = ranked == torch.tensor(labels)[:, None]
percent = {"top1": 100 * hits[:, 0].sum().item() / len(labels), "top5": 100 * hits.any(1).sum().item() / len(labels)}
print(json.dumps({**percent, "num_images": len(labels), "num_classes_seen": len(set(ranked[:, 0].tolist()))}))
"""


def first_images(source: Path, target: Path) -> None:
    """A plain tar of the first images of a shard."""
    with tarfile.open(source) as held, tarfile.open(target, "w") as tar:
        for number, member in enumerate(held):
            if number == 2 * NUM_IMAGES:
                break
            tar.addfile(member, held.extractfile(member))


@pytest.mark.slow
def test_timm_alone_gives_the_accuracy_of_a_student_trained_on_cifar10(
    shared_data: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, cache, run = shared_data("cifar10/train-000.tar.gz"), tmp_path / "cache", tmp_path / "run"
    first_images(shared_data("cifar10/test-000.tar.gz"), tmp_path / "test.tar")
    small = ["img_size=32", "patch_size=4", "embed_dim=48", "depth=2", "num_heads=3"]
    words = ["extract", "--data", str(train), "--teacher", "vit_tiny_patch16_224", "--teacher-weights", "random"]
    words += ["--teacher-kwargs", *small, "--tap", "blocks.-1/patch", "--codec", "int8", "--view-recipe", "rrc-flip"]
    assert main([*words, "--limit", "400", "--out", str(cache)]) == 0
    words = ["train", "--cache", str(cache), "--student", "deit_tiny_patch16_224", "--method", "feature:logit_weight=0"]
    words += ["--student-kwargs", *small[1:], "--epochs", "2", "--set", "optimizer.lr=2e-3"]
    assert main([*words, "--eval-data", str(tmp_path / "test.tar"), "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["eval", str(run), "--data", str(tmp_path / "test.tar"), "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)
    assert main(["export", str(run), "--out", str(tmp_path / "export")]) == 0
    timms = json.loads(in_a_fresh_process(f"import sys\n{WITHOUT_KDCACHE}\n{EVALUATE}", tmp_path))
    assert timms.pop("num_classes_seen") > 1, "a student that always gives one class would agree with anything"
    assert timms == {name: ours[name] for name in ("top1", "top5", "num_images")}
    assert ours["num_images"] == NUM_IMAGES
    assert f"| {ours['top1']:.2f} % | {ours['top5']:.2f} % | 300 |" in (tmp_path / "export/README.md").read_text()
