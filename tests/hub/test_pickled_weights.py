"""Weights in PyTorch's own files are read, and nothing in them or beside them is ever run."""

import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbert.errors import UserError
from mmbert.hub.fill_mask import fill_masks
from mmbert.hub.importing.import_model import import_model
from mmbert.hub.models import load_masked_language_model
from mmbert.hub.pickled_weights import read_pickled_weights
from tests.support.external_model import EMBEDDING, stored

MARKER = "was-run"


class Evil:
    """Runs a shell command when it is unpickled: leaves a file in the working directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARKER}",)


class InStorage:
    """A storage of the older kind, whose bytes are a file for torch.load."""

    def __reduce__(self) -> tuple[Any, ...]:
        inner = io.BytesIO()
        torch.save({"w": Evil()}, inner)
        return torch.storage._load_from_bytes, (inner.getvalue(),)


def _save(path: Path, value: object, **options: Any) -> None:
    torch.save({"w": torch.ones(2), "x": value}, path, **options)


def _replace_pickle(path: Path, data: bytes, *, again: str | None = None) -> None:
    """Write a file of torch.save with another pickle, or with a second one called `again`."""
    torch.save({"w": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            swapped = name.endswith("data.pkl") and again is None
            archive.writestr(name, data if swapped else content)
        if again is not None:
            first = next(name for name in entries if name.endswith("data.pkl"))
            archive.writestr(again or first, data)


def _evil_storage_type(path: Path) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            named = isinstance(value, torch.UntypedStorage)
            return ("storage", Evil(), "0", "cpu", 2) if named else None

    data = io.BytesIO()
    Pickler(data, protocol=2).dump({"w": torch.ones(2).untyped_storage()})
    _replace_pickle(path, data.getvalue())


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(Evil(), protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _pickle_before_a_zip(path: Path) -> None:
    torch.save({"w": torch.ones(2)}, path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2) + path.read_bytes())


EVIL = pickle.dumps({"w": Evil()}, protocol=2)
SYSTEM = Evil().__reduce__()[0].__module__ + r"\.system"
ATTACKS: list[tuple[str, Callable[[Path], object], str]] = [
    ("os.system", lambda path: _save(path, Evil()), rf"it names {SYSTEM}"),
    ("a newer pickle", lambda path: _save(path, Evil(), pickle_protocol=4), rf"names .*{SYSTEM}"),
    ("storage of a file", lambda path: _save(path, InStorage()), r"storage\._load_from_bytes"),
    ("type of a storage", _evil_storage_type, rf"it names {SYSTEM}"),
    ("legacy tar", _tar, r"in an older format \(pickle or tar\)"),
    (
        "legacy stream",
        lambda path: _save(path, Evil(), _use_new_zipfile_serialization=False),
        r"in an older format \(pickle or tar\)",
    ),
    ("pickle before a zip", _pickle_before_a_zip, "in an older format"),
    ("plain pickle", lambda path: path.write_bytes(EVIL), "in an older format"),
    ("two of one name", lambda p: _replace_pickle(p, EVIL, again=""), "two files of one name"),
    (
        "two data.pkl",
        lambda path: _replace_pickle(path, EVIL, again="other/data.pkl"),
        r"data\.pkl and other/data\.pkl",
    ),
    ("program", lambda p: _replace_pickle(p, EVIL, again="w/constants.pkl"), r"constants\.pkl"),
    ("builtins", lambda path: _save(path, getattr), r"names (__builtin__|builtins)\.getattr"),
]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("write", "says"), [attack[1:] for attack in ATTACKS], ids=[attack[0] for attack in ATTACKS]
)
def test_what_would_run_code_is_refused_by_name(
    their_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path], object],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    shutil.copytree(their_folder, folder)
    (folder / "model.safetensors").unlink()
    write(folder / "pytorch_model.bin")
    for use in (lambda: import_model(folder, tmp_path / "out"), lambda: _load(folder)):
        with pytest.raises(UserError, match=rf"pytorch_model\.bin is refused.*{says}") as caught:
            use()
        assert "safetensors" in caught.value.remedy
        assert "\n" not in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def _load(folder: Path) -> object:
    return load_masked_language_model(folder, torch.float32)


def test_the_attacks_work_on_those_who_trust_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (Evil(), InStorage()):
        _save(tmp_path / "weights.bin", value)
        torch.load(tmp_path / "weights.bin", weights_only=False)
        (tmp_path / MARKER).unlink()


def _pickled(their_folder: Path, folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    shutil.copytree(their_folder, folder)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pickled_weights_are_those_of_safetensors(
    dtype: torch.dtype, their_folder: Path, tmp_path: Path
) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in stored(their_folder).items()}
    # As transformers saves them: the tied decoder too, as parameters, in one storage.
    weights["decoder.weight"] = weights[EMBEDDING]
    saved = {name: torch.nn.Parameter(tensor) for name, tensor in weights.items()}
    saved["decoder.weight"] = saved[EMBEDDING]
    import_model(_pickled(their_folder, tmp_path / "model", saved), tmp_path / "out")
    ours = stored(tmp_path / "out")
    assert ours.keys() == stored(their_folder).keys()
    assert all(torch.equal(ours[name], weights[name].float()) for name in ours)
    [[candidates]] = fill_masks(tmp_path / "model", ["the [MASK] runs"], top=3)
    assert len(candidates) == 3


def test_shards_of_pickles(their_folder: Path, tmp_path: Path) -> None:
    weights = stored(their_folder)
    names = sorted(weights)
    folder = _pickled(their_folder, tmp_path / "model", weights)
    (folder / "pytorch_model.bin").unlink()
    shards = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    for shard, part in zip(shards, (names[::2], names[1::2]), strict=True):
        torch.save({name: weights[name].clone() for name in part}, folder / shard)
    index = folder / "pytorch_model.bin.index.json"
    places = {name: shards[i % 2] for i, name in enumerate(names)}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    import_model(folder, tmp_path / "out")
    assert all(torch.equal(stored(tmp_path / "out")[name], weights[name]) for name in names)
    (folder / shards[1]).unlink()
    with pytest.raises(UserError, match=f"{shards[1]} is missing") as caught:
        import_model(folder, tmp_path / "again")
    assert caught.value.remedy == f"download it again: {index.name} lists it"
    index.write_text(json.dumps({"weight_map": {"w": "../elsewhere.bin"}}))
    with pytest.raises(UserError, match=r"file outside its folder: \.\./elsewhere\.bin"):
        import_model(folder, tmp_path / "again")


def test_other_contents_are_named(their_folder: Path, tmp_path: Path) -> None:
    weights = stored(their_folder)
    path = tmp_path / "pytorch_model.bin"
    for content, says in (
        ({"state_dict": weights}, "state_dict is a dict, not a dense tensor"),
        ([torch.ones(2)], "is not a dictionary of tensors"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=f"pytorch_model.bin:? {says}"):
            read_pickled_weights(path)
    torch.save(weights, path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        read_pickled_weights(path)
    untied = weights | {"decoder.weight": weights[EMBEDDING] + 1}
    folder = _pickled(their_folder, tmp_path / "model", untied)
    with pytest.raises(
        UserError, match=r"decoder\.weight differs from model\.embeddings"
    ) as caught:
        import_model(folder, tmp_path / "out")
    assert caught.value.remedy == "only models with tied embeddings can be imported"


def test_code_beside_the_weights_is_never_run(
    their_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    shutil.copytree(their_folder, folder)
    (folder / "theirs.py").write_text(f"open({str(tmp_path / MARKER)!r}, 'w')\n")
    names = ("AutoConfig", "AutoModelForMaskedLM")
    _add(folder / "config.json", auto_map={name: f"theirs.{name}" for name in names})
    _add(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["theirs.Tokenizer", None]})
    import_model(folder, tmp_path / "out")
    assert "auto_map" not in (tmp_path / "out" / "tokenizer_config.json").read_text()
    fill_masks(folder, ["the [MASK] runs"])
    # A model that only the code could load: transformers would ask whether to run it.
    _add(folder / "config.json", model_type="theirs")
    with pytest.raises(UserError, match=r"needs Python code of its own \(auto_map\)"):
        fill_masks(folder, ["the [MASK] runs"])
    with pytest.raises(UserError, match="model_type is 'theirs'"):
        import_model(folder, tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def _add(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
