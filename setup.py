"""Packaging: what kdcache is and needs, in one place."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "kdcache/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
assert VERSION is not None

ONNX = ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.3"]
RAY = "ray>=2.44"
CLOUD = ["obstore>=0.11", "tenacity>=8.2"]
EXTRAS = {
    "cloud": CLOUD,
    "docs": [
        "furo>=2024.8",
        "myst-parser>=4.0",
        "sphinx>=8.0",
        "sphinx-copybutton>=0.5",
        "sphinxcontrib-programoutput>=0.17",
    ],
    "onnx": ONNX,
    "ray": [RAY],
    "tensorboard": ["tensorboard>=2.16"],
    "test": [
        "accelerate>=1.0",
        "hypothesis>=6.100",
        "lightning>=2.4",
        "pyright[nodejs]==1.1.414",
        "pytest>=8.0",
        "pytest-xdist>=3.5",
        "ruff==0.17.6",
        "tensorboard>=2.16",
        "moto[server]>=5.1.5",
        RAY,
        *CLOUD,
        *ONNX,
    ],
}

setup(
    name="kdcache",
    version=VERSION[1],
    description="Run a frozen vision teacher once, keep its outputs, train any number of students from them",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[*find_packages(include=["kdcache", "kdcache.*"]), *find_packages("kernels")],
    # The folder is not a package itself: `kernels` would shadow a package of that name that Hugging Face publishes.
    package_dir={"kdcache_kernels": "kernels/kdcache_kernels"},
    package_data={
        "kdcache": ["py.typed", "cache/FORMAT.md", "reports/templates/*"],
        "kdcache_kernels": ["py.typed", "tables/*.json", "predictions/*.json"],
    },
    # Optional: where no compiler is, the same bytes are read a little more slowly; `kdcache bench` names the way used.
    ext_modules=[
        Extension("kdcache.images._jpeg", ["kdcache/images/_jpeg.c"], extra_compile_args=["-O3"], optional=True),
        Extension("kdcache.reading._gather", ["kdcache/reading/_gather.c"], extra_compile_args=["-O3"], optional=True),
        Extension("kdcache.views._resample", ["kdcache/views/_resample.c"], extra_compile_args=["-O3"], optional=True),
    ],
    install_requires=[
        "braceexpand>=0.1.7",
        "h5py>=3.10",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "msgspec>=0.18.5",
        "numpy>=1.26",
        "pillow>=10.3",
        "rich>=13.7",
        "safetensors>=0.4.3",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "threadpoolctl>=3.2",
        "timm>=1.0.31",
        "torch>=2.11",
        "triton>=3.6; platform_system == 'Linux'",
        "typing-extensions>=4.12",
        "webdataset>=0.2.86",
        "xxhash>=3.4",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["kdcache = kdcache.cli.main:main"]},
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
