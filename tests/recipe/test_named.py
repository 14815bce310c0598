"""Recipes by name: lookup of names and paths, copies of packaged recipes, moved paths."""

import warnings
from pathlib import Path

import pytest

from mmbert.errors import UserError
from mmbert.recipe import describe_recipe, load_recipe, override_recipe
from mmbert.recipe.named import PACKAGED, find_recipe, language_list_names, recipe_names

NAMES = [
    "adapt",
    "constant-mask",
    "demo",
    "mmbert-base",
    "mmbert-small",
    "small-corpus",
    "your-decay",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_packaged_recipe_goes_by_its_name(folder: Path) -> None:
    assert recipe_names() == NAMES
    for name in NAMES:
        assert load_recipe(name).name == name
    assert language_list_names() == ["mmbert-110", "mmbert-1833", "mmbert-60"]


def test_a_name_means_the_package_whatever_the_working_folder_holds(folder: Path) -> None:
    """`make demo` creates a folder `demo`; a file of that name needs a path."""
    (folder / "demo").mkdir()
    (folder / "mmbert-base").write_bytes((PACKAGED / "demo.yaml").read_bytes())
    assert load_recipe("demo").name == "demo"
    assert load_recipe("mmbert-base").name == "mmbert-base"
    for path in ("./mmbert-base", folder / "mmbert-base", Path("mmbert-base")):
        assert load_recipe(path).name == "demo"


def test_any_other_word_is_a_path(folder: Path) -> None:
    (folder / "own").write_bytes((PACKAGED / "demo.yaml").read_bytes())
    (folder / "demo.yaml").write_text((PACKAGED / "demo.yaml").read_text().replace("21", "22"))
    assert load_recipe("own").seed == 21
    assert load_recipe("demo.yaml").seed == 22
    assert load_recipe("demo").seed == 21


def test_the_file_taken_is_said(folder: Path) -> None:
    assert describe_recipe("demo") == f"recipe: demo ({PACKAGED / 'demo.yaml'})"
    (folder / "own.yaml").touch()
    assert describe_recipe("own.yaml") == "recipe: own.yaml"


@pytest.mark.parametrize(
    ("recipe", "message", "remedy"),
    [
        ("mmbert-bsae", "no recipe or file named 'mmbert-bsae'", "did you mean 'mmbert-base'"),
        ("nothing", "no recipe or file named 'nothing'", ", ".join(NAMES)),
        ("nothing.yaml", "no recipe at nothing.yaml", ", ".join(NAMES)),
        ("mmbert-base.yaml", "no recipe at mmbert-base.yaml", "or give mmbert-base"),
        ("there/mmbert-base.yaml", "no recipe at there/mmbert-base.yaml", "or give mmbert-base"),
        (Path("demo"), "no recipe at demo", "or give demo"),
    ],
)
def test_what_is_no_recipe_is_refused_with_the_names_there_are(
    folder: Path, recipe: str | Path, message: str, remedy: str
) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(recipe)
    assert str(error.value).startswith(message)
    assert remedy in str(error.value)


def test_a_copy_finds_the_packaged_language_lists(folder: Path) -> None:
    text = (PACKAGED / "mmbert-base.yaml").read_text()
    (folder / "mine.yaml").write_text(text)
    assert load_recipe("mine.yaml") == load_recipe("mmbert-base")
    by_name = text.replace("languages/mmbert-60.txt", "mmbert-60")
    (folder / "mine.yaml").write_text(by_name)
    assert load_recipe("mine.yaml") == load_recipe("mmbert-base")


def test_constant_mask_is_mmbert_base_with_other_masks() -> None:
    masks = {f"phases.{phase}.mask_ratio": 0.2 for phase in ("pretrain", "extension", "decay")}
    base = override_recipe(load_recipe("mmbert-base"), {"name": "constant-mask", **masks})
    assert load_recipe("constant-mask") == base


def test_a_language_list_beside_the_recipe_wins(folder: Path) -> None:
    (folder / "mine.yaml").write_text((PACKAGED / "mmbert-base.yaml").read_text())
    (folder / "languages").mkdir()
    (folder / "languages" / "mmbert-60.txt").write_text("swh_Latn\n")
    assert load_recipe("mine.yaml").phases[0].languages.names == ("swh_Latn",)
    (folder / "mine.yaml").write_text(
        (PACKAGED / "mmbert-base.yaml").read_text().replace("languages/mmbert-60.txt", "no-list")
    )
    with pytest.raises(UserError, match=r"cannot read language file no-list(.|\n)*mmbert-1833"):
        load_recipe("mine.yaml")


@pytest.mark.parametrize("before", ["", "/somewhere/clone/"])
def test_paths_into_launch_recipes_work_with_a_warning(folder: Path, before: str) -> None:
    with pytest.warns(FutureWarning, match="write mmbert-base instead"):
        assert load_recipe(f"{before}launch/recipes/mmbert-base.yaml").name == "mmbert-base"
    with pytest.warns(FutureWarning), pytest.raises(UserError, match=r"recipes/demo\.yaml"):
        load_recipe(f"{before}launch/recipes/demo.yaml", ["batch.rowz=1"])
    with pytest.raises(UserError, match="no recipe at"):
        load_recipe(f"{before}launch/recipes/other.yaml")


def test_a_list_of_launch_recipes_works_with_a_warning(folder: Path) -> None:
    """The recipe is elsewhere and names the list, or was added to launch/recipes beside it."""
    text = (PACKAGED / "mmbert-base.yaml").read_text()
    moved = text.replace("languages/mmbert-60.txt", "launch/recipes/languages/mmbert-60.txt")
    (folder / "mine.yaml").write_text(moved)
    beside = folder / "launch" / "recipes" / "mine.yaml"
    beside.parent.mkdir(parents=True)
    beside.write_text(text)
    for path in ("mine.yaml", "launch/recipes/mine.yaml"):
        with pytest.warns(FutureWarning, match=r"write languages/mmbert-60\.txt instead"):
            assert load_recipe(path) == load_recipe("mmbert-base")


def test_a_file_that_is_there_is_read_without_a_warning(folder: Path) -> None:
    path = folder / "launch" / "recipes" / "demo.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes((PACKAGED / "demo.yaml").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_recipe("launch/recipes/demo.yaml") == Path("launch/recipes/demo.yaml")
