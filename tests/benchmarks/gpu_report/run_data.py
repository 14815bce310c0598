"""Shards for the report's real run, from the demo's text (needs Babel), at most 8 MiB.

make gpu-report-data           # into build/gpu-report-data
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.environment import ROOT, with_packages

RECIPE = ROOT / "src" / "mmbert" / "recipes" / "demo.yaml"
# Of a language: the largest 12 have twice as many.
MOST_TOKENS = "50k"
MOST_BYTES = 8 << 20


def make_data(folder: Path) -> None:
    """Create `folder`/shards atomically, unless they exist.

    subprocess.CalledProcessError if a step fails; SystemExit if the shards are too large to carry.
    """
    if (folder / "shards").exists():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    corpus, shards = partial / "corpus", partial / "shards"
    for command in (
        (sys.executable, "-m", "mmbert_prep.demo.corpus", corpus),
        (
            *(sys.executable, ROOT / "launch" / "preprocess.py", "--input", corpus),
            *(
                "--output",
                shards,
                "--recipe",
                RECIPE,
                "--workers",
                "2",
                "--heldout-fraction",
                "0.05",
            ),
            *("--maximum-tokens", MOST_TOKENS),
        ),
    ):
        subprocess.run([str(word) for word in command], check=True, cwd=ROOT, env=with_packages())
    shutil.rmtree(corpus)
    shutil.rmtree(shards / ".preprocess", ignore_errors=True)
    size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        raise SystemExit(f"{partial}: {size / 2**20:.1f} MiB, more than {MOST_BYTES >> 20}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    print(f"{folder}: {size / 2**20:.1f} MiB")


def main() -> int:
    """Create the shards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    make_data(parser.parse_args().folder.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
