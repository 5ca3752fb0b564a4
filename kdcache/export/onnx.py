"""A student as an ONNX graph, by torch's exporter, compared with the student by onnxruntime."""

import importlib
import importlib.util

import torch

from kdcache.errors import MissingExtraError, ModelError
from kdcache.students.student import Student

_NEEDED = ("onnx", "onnxscript", "onnxruntime")
# Sums in another order cost some 1e-6 in float32; a missing or wrong node is never this close.
_LARGEST_DIFFERENCE = 1e-4
_PROBE_SIZE = 3


def require_onnx() -> None:
    """Make sure that what is needed is installed. Raises: MissingExtraError."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{', '.join(missing)} not installed; install with pip install 'kdcache[onnx]', or leave ONNX out"
        )


def onnx_bytes(student: Student, image_size: int) -> bytes:
    """The graph from ``images`` (B, 3, S, S), normalised float32, to ``logits`` (B, K), for any B.

    Args:
        student: On the CPU, in evaluation mode.
        image_size: S, pixels.

    Raises: ModelError where torch cannot export the student, or the graph gives other logits.
    """
    example = torch.zeros(2, 3, image_size, image_size)
    batch = torch.export.Dim("batch")
    try:
        program = torch.onnx.export(
            student.model,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    except Exception as error:  # the exporter wraps whatever an operation made it trip over
        raise ModelError(
            f"torch {torch.__version__} cannot export this student to ONNX ({str(error).splitlines()[0][:200]}); "
            "export it without"
        ) from None
    assert program is not None, "torch returns the program where it writes no file"
    graph = program.model_proto.SerializeToString()
    _compare(student, graph, image_size)
    return graph


def _compare(student: Student, graph: bytes, image_size: int) -> None:
    onnxruntime = importlib.import_module("onnxruntime")
    images = torch.randn(_PROBE_SIZE, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    with torch.inference_mode():
        expected = student(images)
    error = float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))
    if not error <= _LARGEST_DIFFERENCE:
        raise ModelError(
            f"the ONNX graph gives other logits than the student (relative error {error:.2g}); export it without ONNX"
        )
