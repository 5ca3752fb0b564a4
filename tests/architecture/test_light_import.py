"""`import kdcache`, `kdcache --help` and training load no more than they must."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "timm",
    "numpy",
    "h5py",
    "rich",
    "PIL",
    "sklearn",
    "matplotlib",
    "msgspec",
    "webdataset",
    "scipy",
    "jinja2",
    "ray",
)


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after some code."""
    program = f"{code}\nimport sys\nprint(' '.join(sorted(sys.modules)), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(result.stderr.split())


def test_import_is_light() -> None:
    assert not loaded_by("import kdcache") & set(HEAVY)


def test_listing_the_public_names_is_light() -> None:
    assert not loaded_by("import kdcache\ndir(kdcache)") & set(HEAVY)


def test_help_is_light_for_every_verb() -> None:
    code = """
import contextlib
import pytest
from kdcache.cli.main import VERBS, main
for verb in ([], *([verb] for verb in VERBS)):
    with contextlib.suppress(SystemExit):
        main([*verb, "--help"])
"""
    assert not loaded_by(code) & (set(HEAVY) - {"msgspec"})


def test_reading_a_cache_needs_no_torch(tiny_root: Path) -> None:
    loaded = loaded_by(
        f"from kdcache.cache import open_cache\nfrom kdcache.cache.verify import verify_base_shard\n"
        f"cache = open_cache({str(tiny_root)!r})\nassert not verify_base_shard(cache, cache.manifest.shards[0])\n"
        "import kdcache.cache.repair, kdcache.stream.order"
    )
    assert not loaded & {"torch", "timm", "sklearn", "matplotlib", "webdataset"}


def test_reading_images_needs_no_torch() -> None:
    """The process in which images are tried one by one is begun again after each that kills it."""
    assert not loaded_by("from kdcache.teacher.reading import ImageReader") & {"torch", "timm", "sklearn"}


@pytest.mark.slow
def test_training_loads_no_teacher(tiny_root: Path, tmp_path: Path) -> None:
    """The whole `train` command, and afterwards no module of the teacher's is in memory."""
    arguments = ["train", "--cache", str(tiny_root), "--student", "vit_tiny_patch16_224", "--method", "lift"]
    arguments += ["--term", "tokens:teacher=blocks.1/patch", "--codec", "fp16"]
    arguments += ["--student-kwargs", "patch_size=4", "embed_dim=12", "depth=1", "num_heads=3", "--codec", "fp16"]
    arguments += ["--batch-size", "4"]
    code = f"from kdcache.cli.main import main\nassert main({[*arguments, '--out', str(tmp_path / 'run')]!r}) == 0"
    assert not {name for name in loaded_by(code) if name.startswith("kdcache.teacher")}
    assert (tmp_path / "run" / "student.safetensors").is_file()


def test_works_under_the_c_locale() -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run(
        [sys.executable, "-m", "kdcache", "verify", "/no/such/cäche"], capture_output=True, env=environment, check=False
    )
    assert result.returncode == 1
    assert b"no such folder" in result.stderr
