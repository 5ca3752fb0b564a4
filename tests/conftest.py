"""Shared fixtures: a tiny cache of real digits, made once, and what is needed to make others."""

import gc
import multiprocessing
import os
import secrets
import shutil
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

# Triton reads this when torch first imports it: without a GPU its kernels are interpreted.
if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd")):
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Triton 3.9 warns, and warnings are errors here, where nobody said whether products and sums may fuse.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

# The models of the tests are tiny: a second thread gains nothing, and costs much where others use the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Of a test on a disk much is waiting for fsync and for folders to go; what is proved here holds in any file system.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 8 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

from kdcache.cache import Cache, open_cache
from kdcache.durable import sha256_file
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.extract import extract
from tests.forked import PRELOAD
from tests.object_storage import environment, make_bucket, s3_server

# On a shared machine a pause of a second says nothing of the test that it falls into.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

# Before the first of them is begun: it is one for all tests of this process, and for the benchmarks.
multiprocessing.set_forkserver_preload(PRELOAD)

TEACHER = "vit_tiny_patch16_224"
GROUP = "vit-tiny-patch16-224"
TEACHER_KWARGS = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 10}
STUDENT_KWARGS = {**TEACHER_KWARGS, "embed_dim": 12}
del STUDENT_KWARGS["img_size"], STUDENT_KWARGS["num_classes"]
TAPS = (
    "blocks.-1/patch:fp16",
    "blocks.-1/patch:int8",
    "blocks.-1/patch:bf16",
    "blocks.0/patch:fp32",
    "blocks.-1/prefix:fp32",
    "head/logits",
    "head/logits:topk=3",
)
SECOND_KWARGS = {**TEACHER_KWARGS, "embed_dim": 36}
SECOND_TAPS = ("blocks.-1/patch:int8", "head/logits")
DEEP_KWARGS = {**TEACHER_KWARGS, "depth": 3}
BLOCK_TAPS = (*(f"blocks.{block}/{kind}:fp32" for block in range(3) for kind in ("patch", "prefix")), "head/logits")
# A minute and more each, with the tests that are slow.
LONGEST = ("test_driver.py", "test_campaign.py", "test_crashes.py", "test_lost_ranks.py", "test_benchmarks.py")
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def tiny_extract(out: Path, **changes: Any) -> ExtractConfig:
    """A teacher pass over twenty digits in three shards that takes well under a second."""
    config = ExtractConfig(
        data="digits:train",
        out=out,
        teacher=TEACHER,
        teacher_weights="random",
        teacher_kwargs=TEACHER_KWARGS,
        taps=TAPS,
        views=2,
        view_recipe="rrc-flip",
        limit=20,
        shard_samples=8,
        batch_size=6,
        threads=2,
        cpu_threads=1,
    )
    return replace(config, **changes)


def tiny_add(out: Path, **changes: Any) -> ExtractConfig:
    """A second teacher for the views of a tiny cache: other width, precision, batch size and taps."""
    config = ExtractConfig(
        out=out,
        add=True,
        group="wide",
        teacher=TEACHER,
        teacher_weights="random",
        teacher_kwargs=SECOND_KWARGS,
        taps=SECOND_TAPS,
        precision="bf16",
        batch_size=5,
        threads=2,
        cpu_threads=1,
    )
    return replace(config, **changes)


def file_hashes(root: Path) -> dict[str, str]:
    """sha256 of every file a cache consists of, by path; what only a running extraction needs is left out."""
    return {
        path.relative_to(root).as_posix(): sha256_file(path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and "job" not in path.relative_to(root).parts
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, then those with slow tests: a worker takes whole files, and waits for the last."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (order.get(item.path.name, len(order)), item.path not in slow))


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist keep the order below: by itself it begins with the files that have the most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_finish() -> None:
    """What torch and the tests made at import lives to the end: without it a full collection takes a hundredth."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache that no test may change."""
    root = tmp_path_factory.mktemp("caches") / "tiny"
    extract(tiny_extract(root))
    return root


@pytest.fixture
def tiny_cache(tiny_root: Path) -> Cache:
    return open_cache(tiny_root)


@pytest.fixture
def cache_copy(tiny_root: Path, tmp_path: Path) -> Path:
    """A copy of the tiny cache to damage."""
    return Path(shutil.copytree(tiny_root, tmp_path / "copy"))


@pytest.fixture(scope="session")
def groups_root(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of two teachers and raw pixels that no test may change."""
    root = Path(shutil.copytree(tiny_root, tmp_path_factory.mktemp("caches") / "groups"))
    extract(tiny_add(root, pixels="raw"))
    return root


@pytest.fixture
def groups_copy(groups_root: Path, tmp_path: Path) -> Path:
    """A copy of the cache of two teachers to damage."""
    return Path(shutil.copytree(groups_root, tmp_path / "groups"))


@pytest.fixture(scope="session")
def blocks_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with all tokens of all three blocks of a teacher, whose weights lie beside it in ``teacher.safetensors``.

    No test may change it. The weights of its blocks are large, so that every block changes its tokens much.
    """
    folder = tmp_path_factory.mktemp("caches")
    torch.manual_seed(1)
    model = timm.create_model(TEACHER, **DEEP_KWARGS)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("blocks") and weight.dim() == 2:
                weight.mul_(10)
    safetensors.torch.save_file(model.state_dict(), folder / "teacher.safetensors")
    weights = str(folder / "teacher.safetensors")
    extract(tiny_extract(folder / "blocks", teacher_weights=weights, teacher_kwargs=DEEP_KWARGS, taps=BLOCK_TAPS))
    return folder / "blocks"


@pytest.fixture(scope="session")
def jpeg_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose views are JPEG files, which no test may change."""
    root = tmp_path_factory.mktemp("caches") / "jpeg"
    extract(tiny_extract(root, pixels="jpeg:90", taps=("blocks.-1/patch:fp16", "head/logits")))
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of class folders with six small colour images of different shapes and formats."""
    random = np.random.default_rng(5)
    root = tmp_path / "photos"
    for number, extension in enumerate(("jpg", "JPEG", "png", "webp", "jpg", "png")):
        path = root / ("cat" if number % 2 else "dog") / f"{number}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (20 + 3 * number, 30 - 2 * number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="session")
def s3_endpoint() -> Generator[str]:
    """An S3 server; tests that need it are skipped where it or obstore is not installed."""
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """``s3://BUCKET`` of an empty bucket; the environment says how it is reached, and where files are staged."""
    name = f"test-{secrets.token_hex(6)}"
    make_bucket(s3_endpoint, name)
    settings = {
        **environment(s3_endpoint),
        "KDCACHE_STAGING": str(tmp_path / "staging"),
        "KDCACHE_REMOTE_TIMEOUT": "10",
    }
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    return f"s3://{name}"


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Real images that lie beside the project on some machines."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"{path} is not on this machine; it holds real images for this test")
        return path

    return find


def flip_bit(path: Path, position: int) -> None:
    """Damage one bit of a read-only file."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))
