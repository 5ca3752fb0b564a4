import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdcache.errors import MissingExtraError, ModelError
from kdcache.export import export_student
from kdcache.export import onnx as module
from kdcache.export.onnx import onnx_bytes, require_onnx
from kdcache.methods.none import none
from kdcache.students.student import Student, StudentSpec, build_student
from kdcache.train.folder import load_student
from tests.export.support import finished, images_of

# torch 2.11's own exporter warns of its own parts.
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")
installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in module._NEEDED), reason="the extra onnx is not installed"
)


@installed
@pytest.mark.slow
def test_onnxruntime_gives_the_students_logits_for_any_batch(tiny_root: Path, tmp_path: Path) -> None:
    import onnxruntime

    run = finished(tiny_root, tmp_path / "run", "data.codec=none", method=none())
    done = export_student(run, tmp_path / "out", onnx=True)
    assert done.files == ("model.safetensors", "README.md", "model.onnx", "config.json")
    assert "model.onnx" in (tmp_path / "out/README.md").read_text()
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"])
    student = load_student(run)[0]
    for rows in (1, 7):
        images = images_of(16)[:rows]
        (found,) = session.run(["logits"], {"images": images.numpy()})
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(found), student(images), rtol=1e-4, atol=1e-5)


@installed
@pytest.mark.slow
def test_a_convnet() -> None:
    spec = StudentSpec(name="test_resnet", num_classes=3, image_size=32)
    assert onnx_bytes(build_student(spec).eval(), 32)


@installed
def test_a_graph_with_other_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drifting(nn.Module):
        """Another model after it has been exported."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.layer(images.mean(dim=(2, 3)))

    student, compare = Student(Drifting()).eval(), module._compare

    def later(student: Student, graph: bytes, size: int) -> None:
        nn.init.ones_(student.model.layer.weight)
        compare(student, graph, size)

    monkeypatch.setattr(module, "_compare", later)
    with pytest.raises(ModelError, match="other logits than the student"):
        onnx_bytes(student, 8)


@installed
def test_what_torch_cannot_export_is_refused() -> None:
    class Deciding(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    with pytest.raises(ModelError, match="cannot export this student to ONNX"):
        onnx_bytes(Student(Deciding()).eval(), 8)


def test_a_missing_extra_is_found_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NEEDED", ("onnx_is_not_here",))
    with pytest.raises(MissingExtraError, match=r"onnx_is_not_here not installed; .*kdcache\[onnx\]"):
        require_onnx()
    with pytest.raises(MissingExtraError):
        export_student(tmp_path, tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()
