"""Nodes that differ are refused before training, and both values are named."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from mmbert.errors import PackageError, RecipeError, ShardsError
from mmbert.training.nodes.agreement import Agreement, agree
from mmbert.training.run_config import RunOptions
from tests.support.fake_nodes import nodes_of, pretend
from tests.support.job_processes import output_of, run_to_the_end
from tests.support.ranks import run_ranks
from tests.support.small_run import options_for
from tests.training.test_exchanged_shards import other_text

HOSTS = ["a", "a", "b", "c"]
SAME = {"packages": {"torch": "2.13.0"}, "recipe": {"seed": "3"}, "shards": {"text/eng_Latn": "11"}}


def compare(rank: int, world_size: int) -> list[Agreement]:
    nodes, host_group = nodes_of(HOSTS, rank, world_size)
    now = time.time

    def with_facts(**facts: dict[str, str]) -> Agreement:
        return agree({**SAME, **facts} if nodes.name == "b" else SAME, nodes, host_group)

    many = {f"text/l{number}": f"{number}" for number in range(5000)}
    found = [
        with_facts(),
        with_facts(packages={"torch": "2.12.0", "mmbert": "0.2.0"}, recipe={"seed": "4"}),
        with_facts(recipe={"seed": "4"}),
        with_facts(shards=many),
        # A node that could not read its recipe has an error of its own.
        agree({"packages": SAME["packages"]} if nodes.name == "c" else SAME, nodes, host_group),
    ]
    for seconds in (50, 200):
        time.time = lambda ahead=seconds: now() + ahead * (rank == 2)
        found.append(agree(SAME, nodes, host_group))
    time.time = now
    return found


def test_what_differs_is_named_with_both_values_on_all_ranks() -> None:
    found = run_ranks(compare, 4)
    texts = [[str(outcome) for outcome in outcomes] for outcomes in found.values()]
    assert all(text == texts[0] for text in texts)
    same, packages, recipe, shards, unread, near, far = found[3]
    for outcome in (same, unread, near):
        assert outcome == Agreement(None)
    assert isinstance(packages.error, PackageError)
    assert "packages: torch: 2.13.0 on a, c; 2.12.0 on b" in str(packages.error)
    assert "packages: mmbert: missing on a, c; 0.2.0 on b" in str(packages.error)
    assert "recipe: seed: 3 on a, c; 4 on b" in str(packages.error)
    assert isinstance(recipe.error, RecipeError)
    assert isinstance(shards.error, ShardsError)
    assert "shards: text/eng_Latn: 11 on a, c; missing on b" in str(shards.error)
    assert "4,996 more that differ" in str(shards.error)
    assert len(str(shards.error).splitlines()) < 20
    (warning,) = far.warnings
    assert "b by +3.4 min" in warning or "b by +3.3 min" in warning
    assert far.error is None


def other_shards(rank: int, hosts: list[str], other: Path, readers: Path) -> None:
    """Let the ranks of host `b` see the shards in `other`; note who reads manifests."""
    pretend(hosts, rank)
    from mmbert.data.shards import corpus
    from mmbert.training import main

    def read(folder: Path) -> Any:
        (readers / str(rank)).touch()
        return corpus.read_corpus_files(other if hosts[rank] == "b" else folder)

    main.read_corpus_files = read


def test_other_shards_on_a_node_are_refused_once_with_status_2(
    inputs: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(inputs / "shards", other)
    other_text(other, "fra_Latn")
    readers = tmp_path / "readers"
    readers.mkdir()
    options = options_for(inputs, tmp_path / "run")
    hosts = ["a", "a", "b", "b"]
    statuses = run_to_the_end(
        options, world_size=4, before=other_shards, arguments=(hosts, other, readers)
    )
    output = output_of(options)
    assert statuses == [2] * 4, output
    assert output.count("the nodes differ") == 1
    assert "shards: text/fra_Latn: " in output
    assert "eng_Latn" not in output
    assert "--data" in output
    assert "Traceback" not in output
    assert not options.output.exists()
    assert sorted(os.listdir(readers)) == ["0", "2"]  # one rank of each node


def other_seed(rank: int) -> None:
    """Let rank 1 be on host `b`, with another recipe; neither has a token file to read."""
    pretend(["a", "b"], rank)
    if rank == 1:
        from mmbert.training import main, run_config

        def resolve(options: RunOptions, world_size: int) -> Any:
            changed = RunOptions(options.recipe, options.data, options.output, ("seed=9",))
            return run_config.resolve_recipe(changed, world_size)

        main.resolve_recipe = resolve


def test_another_recipe_on_a_node_is_refused(inputs: Path, tmp_path: Path) -> None:
    options = options_for(inputs, tmp_path / "run")
    assert run_to_the_end(options, before=other_seed) == [2, 2], output_of(options)
    assert output_of(options).count("recipe: seed: 3 on a; 9 on b") == 1
