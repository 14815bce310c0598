"""The corpus and the recipe of a chain without arguments: the demo with two more decays, merged."""

import shutil
import subprocess
import sys
from pathlib import Path

from mmbert.cluster.site import Site
from mmbert.errors import ArgumentError
from mmbert.files import make_folder
from mmbert.recipe import Recipe, parse_recipe
from mmbert.recipe.named import find_recipe

OUT = Path("demo-chain")
PREPROCESS = ("--heldout-fraction", "0.05")
_VARIANTS = """
variants:
  - {name: english, branch_from: extension, overrides: {phases.decay.languages: [eng_Latn]}}
  - {name: cooler, branch_from: extension, overrides: {phases.decay.temperature: 0.5}}
merge: {method: ties, variants: [main, english, cooler], density: 0.5}
"""


def demo_recipe(overrides: list[str]) -> Recipe:
    """Return the packaged recipe `demo` with variants and a merge."""
    path = find_recipe("demo")
    return parse_recipe(path.read_text(encoding="utf-8") + _VARIANTS, overrides, origin=str(path))


def demo_site(site: Site) -> Site:
    """Return the values of a site with one node and two ranks, as the recipe's quantum allows."""
    given = site.of_step("pretrain")
    ranks = {
        "gpus_per_node": min(given.gpus_per_node or 0, 2),
        "tasks_per_node": min(given.tasks_per_node or 2, 2),
    }
    steps = {
        name: values.model_copy(update=ranks) if name in ("pretrain", "decay") else values
        for name, values in site.steps.items()
    }
    return site.model_copy(update=ranks | {"steps": steps}).with_nodes(1)


def corpus_command(corpus: Path) -> tuple[str, ...]:
    """Return the command that writes the demo corpus."""
    return (sys.executable, "-P", "-m", "mmbert_prep.demo.corpus", str(corpus))


def make_corpus(corpus: Path) -> None:
    """Write the demo corpus, unless it is there."""
    if corpus.is_dir():
        return
    make_folder(corpus.parent)
    partial = corpus.with_name(f"{corpus.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    result = subprocess.run(
        corpus_command(partial), capture_output=True, text=True, encoding="utf-8", errors="replace"
    )
    if result.returncode:
        raise ArgumentError(
            f"the demo corpus cannot be written to {partial}: {result.stderr.strip()}",
            remedy="call the command in a folder that you may write to",
        )
    partial.rename(corpus)
