"""Models by name, at the commit that the decay began with: a branch of the Hub may move."""

from collections.abc import Callable
from pathlib import Path

from mmbert.decay.layout import DecayFolder
from mmbert.files import parse_json, write_json
from mmbert.hub.hub_name import cached_model, model_folder


def pinned_model(folder: DecayFolder, model: str, say: Callable[[str], None]) -> Path:
    """Return the folder of a model; a name that was resolved before keeps its commit.

    Raises:
        ModelError: there is neither folder nor name, or the Hub or the commit is out of reach.
    """
    pins: dict[str, str] = {}
    if folder.commits.is_file():
        pins = parse_json(folder.commits.read_text(encoding="utf-8"))
    path = model_folder(Path(pins.get(model, model)), say)
    found = cached_model(path)
    if model not in pins and found is not None and not Path(model).exists():
        name, commit = found
        write_json(folder.commits, pins | {model: f"{name}@{commit}"})
    return path
