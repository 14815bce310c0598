"""Site files: errors that name file, key, value and remedy; values of the steps; the examples."""

from pathlib import Path

import pytest

from mmbert.cluster.site import JobValues, Site, load_site
from mmbert.errors import ArgumentError
from tests.support.environment import ROOT

SITES = ROOT / "slurm" / "sites"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitoin: gpu", "did you mean 'partition'?"),
        ("time: 12:00:00", "time: quote the time"),
        ("time: soon", "time: write a time as 'minutes'"),
        ("nodes: 0", "nodes: Input should be greater than or equal to 1 (its value: 0)"),
        ("environment: {A-B: x}", "environment.A-B: String should match"),
        ("environment: {A: yes}", "environment.A: quote it"),
        ("sbatch: ['--comment=a\n\n  b']", "sbatch.0: it has more than one line"),
        ("container: {kind: apptaner, image: a.sif}", "did you mean 'apptainer'?"),
        ("container: {kind: pyxis, image: a, binds: ['/a,/b']}", "container.binds.0: String"),
        ("steps: {pretain: {nodes: 2}}", "did you mean 'pretrain'?"),
        ("- a", "is not a mapping"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "my site.yaml"
    path.write_text(text)
    with pytest.raises(ArgumentError) as caught:
        load_site(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "→" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"none\.yaml cannot be read"):
        load_site(tmp_path / "none.yaml")


def test_options_win_and_steps_have_their_own_values(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(
        "partition: gpu\ntime: '9'\nnodes: 4\ngpus_per_node: 8\nsbatch: [-A, x]\n"
        "environment: {FI_NUMBER: 3}\nsteps: {preprocess: {partition: cpu}, decay: {nodes: 2}}\n"
    )
    site = load_site(path, ["time=1:30:00", "steps.merge.sbatch=[--mem=1G]"])
    assert site.environment == {"FI_NUMBER": "3"}
    assert site.of_step("preprocess") == JobValues(
        partition="cpu", time="1:30:00", sbatch=("-A", "x")
    )
    assert site.of_step("pretrain").nodes == 4
    assert site.of_step("decay").nodes == 2
    assert site.with_nodes(16).of_step("decay").nodes == 16
    assert site.of_step("merge").sbatch == ("-A", "x", "--mem=1G")
    assert site.of_step("evaluate").gpus_per_node == 1
    for wrong in ("nodes", "=4", "a=[", "nodes=many"):
        with pytest.raises(ArgumentError):
            load_site(path, [wrong])


@pytest.mark.parametrize("name", ["nvidia", "amd"])
def test_examples_are_valid_and_show_every_key(name: str) -> None:
    text = (SITES / f"{name}.yaml").read_text()
    assert load_site(SITES / f"{name}.yaml").gpus_per_node == 8
    for key in Site.model_fields:
        assert f"\n{key}:" in text or f"\n# {key}:" in text, key
