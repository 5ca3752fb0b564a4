"""What only an accelerator can show. Skipped elsewhere; benchmarks/README.md says how to run it on a lent GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.analysis import Analysis, AnalyzeConfig, CacheTokens, analyze
from kdcache.analysis.cache_tokens import choose_columns
from kdcache.cache import open_cache
from kdcache.distributed import WorkerEnv
from kdcache.methods.feature import feature
from kdcache.methods.lift import lift
from kdcache.methods.wide_last import wide_last
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.teacher.extract import extract
from kdcache.train import train
from kdcache.train.setup import prepare
from kdcache.train.trainer import Trainer
from tests.conftest import tiny_extract
from tests.methods.support import one_batch
from tests.train.support import losses, tiny_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine"),
    # Widths as small as these are in no table, and torch 2.11's compiler warns of its own parts.
    pytest.mark.filterwarnings("ignore:plain torch instead of Triton"),
    pytest.mark.filterwarnings("ignore:TensorFloat32"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),
]
TAP = ("blocks.1/patch",)


@pytest.fixture(scope="module")
def gpu_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("caches") / "gpu"
    extract(tiny_extract(root, device="cuda", precision="fp32"))
    return root


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-2), ("fp16", 2e-2), ("bf16", 1e-1)])
def test_the_teacher_says_the_same_as_on_a_cpu(
    tiny_root: Path, tmp_path: Path, precision: str, tolerance: float
) -> None:
    extract(tiny_extract(tmp_path / "c", device="cuda", precision=precision))
    cpu, gpu = open_cache(tiny_root), open_cache(tmp_path / "c")
    [group] = gpu.groups.values()
    assert group.manifest.fingerprint.teacher is not None
    assert group.manifest.fingerprint.teacher.device == "cuda"
    for column in cpu.columns:
        if column.kind == "patch" and column.codec in ("fp16", "fp32"):
            one, two = (
                column.make_codec().decode(
                    cache.strided(column, cache.manifest.shards[0]).fields(), tuple(column.shape)
                )
                for cache in (cpu, gpu)
            )
            assert np.linalg.norm(one - two) / np.linalg.norm(one) < tolerance


def test_the_same_plan_gives_the_same_bytes(gpu_root: Path, tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "again", device="cuda", precision="fp32"))
    one, two = open_cache(tmp_path / "again"), open_cache(gpu_root)
    assert one.identity(one.columns) == two.identity(two.columns)


def test_packed_targets_decode_the_same_on_the_device(gpu_root: Path) -> None:
    cache = open_cache(gpu_root)
    columns = cache.columns
    for batch in CacheLoader(cache, columns, StreamConfig(batch_size=10), device="cuda"):
        moved = batch.to("cuda")
        assert moved.pixels.is_cuda
        for name, targets in batch.targets.items():
            assert torch.equal(moved.targets[name].decode().cpu(), targets.to(torch.device("cpu")).decode())


@pytest.mark.parametrize("device", ["cuda"])
def test_codecs_decode_on_the_device_as_in_numpy(tmp_path: Path, device: str) -> None:
    codecs = ("fp8", "int4", "int8c", "factor=8")
    taps = (*(f"blocks.-1/patch:{codec}" for codec in codecs), "head/logits:sampled=4")
    extract(tiny_extract(tmp_path / "c", device=device, precision="fp32", taps=taps, max_error=1.0))
    cache = open_cache(tmp_path / "c")
    for batch in CacheLoader(cache, cache.columns, StreamConfig(batch_size=10), device=device):
        for targets in batch.targets.values():
            # numpy has no name for e4m3.
            fields = {
                name: (each.view(torch.uint8) if each.dtype == torch.float8_e4m3fn else each).cpu().numpy()
                for name, each in targets.fields.items()
            }
            wanted = targets.column.make_codec().decode(fields, tuple(targets.column.shape))
            assert np.array_equal(targets.decode().cpu().numpy(), wanted)


@pytest.mark.parametrize("images", ["pixels", "none", "encoded"])
def test_batches_on_the_device_are_those_in_memory(gpu_root: Path, images: str) -> None:
    """Copied on a stream of their own while slow work is queued on the other: no slot is overwritten too early."""
    cache = open_cache(gpu_root)
    columns = cache.columns
    config = StreamConfig(batch_size=4, images=images, check_pixels=1.0)
    here, there = (CacheLoader(cache, columns, config, device=device) for device in ("cpu", "cuda"))
    for _ in range(3):
        found = []
        for batch in there:
            torch.cuda._sleep(20_000_000)
            found.append(batch.clone())
        for wanted, batch in zip(here, found, strict=True):
            for one, two in zip(wanted.tensors(), batch.tensors(), strict=True):
                assert two.is_cuda
                assert torch.equal(one, two.cpu())
            if images == "encoded":
                assert batch.encoded is not None and wanted.encoded is not None
                assert torch.equal(batch.encoded.data, wanted.encoded.data)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", [feature(teacher=TAP), lift(teacher=TAP), wide_last(teacher=TAP)])
def test_every_precision_trains(gpu_root: Path, tmp_path: Path, precision: str, method: object) -> None:
    config = tiny_run("optimizer.lr=1e-2", method=method, precision=precision, device="cuda", epochs=6, ema_decay=0.9)
    summary = train(gpu_root, tmp_path / "run", config)
    assert summary["device"].startswith("cuda")
    assert summary["peak_memory_bytes"] > 0
    found = [entry["loss"] for entry in losses(tmp_path / "run")]
    assert np.mean(found[-5:]) < 0.9 * np.mean(found[:5])


def test_resuming_the_loss_scale(gpu_root: Path) -> None:
    config = tiny_run(precision="fp16", device="cuda", batch_size=8)
    cache, alone = open_cache(gpu_root), WorkerEnv(0, 1, 0, "job")
    trainer = Trainer(config, prepare(config, cache), alone, torch.device("cuda"), steps_per_epoch=5)
    trainer.step(one_batch(cache), 0)
    assert trainer.state_dict()["optimizer"]["param_groups"][0]["fused"]
    scaler = trainer.state_dict()["scaler"]
    again = Trainer(config, prepare(config, cache), alone, torch.device("cuda"), steps_per_epoch=5)
    again.load_state_dict(trainer.state_dict())
    again.step(one_batch(cache), 1)
    again.load_state_dict(trainer.state_dict())
    assert again.state_dict()["scaler"] == scaler


def test_compiled_training_follows_eager(gpu_root: Path, tmp_path: Path) -> None:
    train(gpu_root, tmp_path / "eager", tiny_run(device="cuda", precision="fp32"))
    train(gpu_root, tmp_path / "compiled", tiny_run(device="cuda", precision="fp32", compile=True))
    for one, two in zip(losses(tmp_path / "eager"), losses(tmp_path / "compiled"), strict=True):
        assert two == pytest.approx(one, rel=2e-2, abs=1e-3)


def test_analyses_say_the_same_as_on_a_cpu(tiny_root: Path) -> None:
    cache = open_cache(tiny_root)
    columns, _ = choose_columns(cache, None)
    results: list[Analysis] = []
    for device in (torch.device("cpu"), torch.device("cuda", 0)):
        source = CacheTokens(cache, columns, num_images=20, batch_size=6, device=device)
        results.append(analyze(source, AnalyzeConfig(permutations=2), device=device, left_out=[])[0])
    for cpu, gpu in zip(results[0].layers, results[1].layers, strict=True):
        assert cpu.ranks == gpu.ranks
        assert cpu.sep is not None
        assert gpu.sep is not None
        assert cpu.sep.full.bins == gpu.sep.full.bins
        assert cpu.dynamics is not None
        assert gpu.dynamics is not None
        assert cpu.dynamics.entropy_bits == pytest.approx(gpu.dynamics.entropy_bits, abs=0.02)
        assert cpu.dynamics.intensity == pytest.approx(gpu.dynamics.intensity, rel=1e-4)
