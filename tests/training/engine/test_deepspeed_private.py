"""Private and undocumented names of DeepSpeed that the engine uses still exist.

DeepSpeed guarantees none of them. If a new version drops one, these tests fail and name it, before
anything trains incorrectly; a use that is not listed fails too.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from torch import nn

from mmbert.parallel.process_grid import ProcessGrid
from mmbert.training.engine import engine as engine_module
from mmbert.training.engine.deepspeed_config import ModelParallelUnit, deepspeed_settings
from mmbert.training.engine.zero_views import VIEWS
from tests.support.prescribed_gradients import (
    SPECS,
    PrescribedBatch,
    prescribed_engine,
    recipe,
    start,
)
from tests.support.ranks import run_ranks
from tests.support.step_settings import make_settings

SOURCES = Path(deepspeed.__file__).parent
OURS = Path(engine_module.__file__).parent
STAGES_1_2 = "deepspeed.runtime.zero.stage_1_and_2"
STAGE_3 = "deepspeed.runtime.zero.stage3"
BF16 = "deepspeed.runtime.bf16_optimizer"
# Modules, and what is taken from them or put in their place.
MODULES: dict[str, set[str]] = {
    "deepspeed": {"initialize", "ops"},
    "deepspeed.ops": {"__compatible_ops__"},
    BF16: {"is_invalid_grad_norm", "clip_tensors_by_global_norm"},
    STAGES_1_2: {"is_invalid_grad_norm"},
    STAGE_3: {"is_invalid_grad_norm"},
    # Names that only appear in text: whose children the ranks are, and where a rank waits.
    "deepspeed.launcher.launch": set(),
    "deepspeed.comm": set(),
}
ENGINE = {"backward", "destroy", "enable_backward_allreduce", "module", "optimizer", "step"}
# Of the optimizers; `overflow` is there once a step has been taken.
OPTIMIZERS: dict[str, set[str]] = {
    "BF16_Optimizer": {
        "_update_hp_grad", "bf16_groups", "fp32_groups_flat_partition", "fp32_groups_gradients",
        "fp32_groups_gradients_flat", "fp32_groups_has_gradients", "overflow", "update_lp_params",
    },
    "DeepSpeedZeroOptimizer": {
        "check_overflow", "overflow", "single_partition_of_fp32_groups", "update_lp_params",
    },
    "DeepSpeedZeroOptimizer_Stage3": {
        "_partition_all_parameters", "_reassign_or_swap_out_partitioned_parameters", "fp16_groups",
        "fp32_partitioned_groups_flat", "get_param_id", "grad_position", "overflow",
        "persistent_parameters",
    },
}  # fmt: skip
# Of parameters: under ZeRO 1 and 2, and under 3; and of what the first of them leads to.
LINKED, PARTITIONED = {"_hp_mapping"}, {"ds_numel", "all_gather"}
MAPPING = {"hp_fragment_address", "lp_fragment_address", "param_group_index"}
ADDRESS = {"numel", "start"}
# Files that use them, the names by which these call them, and their lists.
VARIABLES: dict[str, dict[str, set[str]]] = {
    "engine.py": {"self._engine": ENGINE, "self._engine.optimizer": {"overflow"}},
    "zero_views.py": {
        "self._zero": set().union(*OPTIMIZERS.values()) - {"check_overflow", "overflow"},
        "zero": {"check_overflow"},
        "mapping": MAPPING,
        "here": ADDRESS,
        "there": ADDRESS,
        "self._zero.persistent_parameters[]": PARTITIONED - {"ds_numel"},
    },
}
# Arguments that are given or taken by name or place.
SIGNATURES: dict[tuple[str, str], tuple[str, ...]] = {
    (BF16, "BF16_Optimizer._update_hp_grad"): (
        "self", "lp", "group_idx", "param_idx", "clear_lp_grads",
    ),
    (BF16, "is_invalid_grad_norm"): ("norm",),
    (BF16, "clip_tensors_by_global_norm"): ("input_tensors", "max_norm", "global_norm", "mpu"),
    (STAGE_3, "DeepSpeedZeroOptimizer_Stage3.get_param_id"): ("self", "param"),
}  # fmt: skip


def missing_in_engines(rank: int, world_size: int) -> list[str]:
    """Return the listed names that are missing in real engines after a step."""
    gone: list[str] = []
    seen: set[str] = set()

    def look(owner: Any, names: set[str], what: str) -> None:
        gone.extend(f"{what}.{name}" for name in sorted(names) if not hasattr(owner, name))

    for precision, stage in (("bfloat16", 1), ("float32", 2), ("bfloat16", 3)):
        grid = start(rank, world_size, 1)
        changes = {"parallel__zero_stage": stage, "precision": precision}
        engine = prescribed_engine(grid, **changes)
        batch = PrescribedBatch({n: torch.ones(d.full_shape) for n, d in SPECS.items()})
        engine.forward_backward(
            batch, make_settings(), dropout_seed=None, loss_scale=1.0, last=True
        )
        engine.optimizer_step(make_settings(1e-3, 0.0))
        zero = engine._engine.optimizer
        kind = type(zero).__name__
        seen.add(kind)
        look(engine._engine, ENGINE, "DeepSpeedEngine")
        # What the engine has put its own in place of is looked up in the class.
        replaced = {"_update_hp_grad", "check_overflow"}
        look(type(zero), OPTIMIZERS[kind] & replaced, kind)
        look(zero, OPTIMIZERS[kind] - replaced, kind)
        parameters = [parameter for _, parameter in engine._parameters]
        look(parameters[0], PARTITIONED if stage == 3 else LINKED, "parameter")
        if stage != 3:
            mapping = next(p._hp_mapping for p in parameters if p._hp_mapping is not None)
            look(mapping, MAPPING, "mapping")
            look(mapping.hp_fragment_address, ADDRESS, "address")
        engine.close()
    gone.extend(f"no engine has a {name}" for name in OPTIMIZERS.keys() - seen)
    return gone


def test_engines_have_what_is_used_of_them() -> None:
    assert run_ranks(missing_in_engines, 1)[0] == []


@pytest.mark.parametrize("module", MODULES)
def test_modules_have_what_is_used_of_them(module: str) -> None:
    found = importlib.util.find_spec(module)
    assert found is not None, f"{module} is gone"
    if MODULES[module]:
        there = vars(importlib.import_module(module))
        assert MODULES[module] <= there.keys(), f"gone: {MODULES[module] - there.keys()}"


def test_the_operator_that_is_left_out_is_known_by_its_name() -> None:
    """The op would be compiled at every start on a CPU; engine.py has set it to False."""
    assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__
    assert deepspeed.ops.op_builder.__name__


@pytest.mark.parametrize(("module", "name"), SIGNATURES)
def test_functions_take_what_they_are_given(module: str, name: str) -> None:
    function: Any = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    parameters = list(inspect.signature(function).parameters)
    expected = SIGNATURES[module, name]
    assert [parameter for parameter in parameters if parameter in expected] == list(expected)


def test_the_configurations_keys_are_known() -> None:
    """DeepSpeed ignores unknown keys."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    text = "".join(
        (SOURCES / place).read_text()
        for place in (
            "runtime/constants.py", "runtime/config.py", "runtime/precision_config.py",
            "utils/config.py", "comm/constants.py",
        )
        if (SOURCES / place).exists()
    )  # fmt: skip
    values = deepspeed_settings(
        nn.Linear(2, 2), recipe(precision="bfloat16", parallel__zero_stage=3)
    )
    known = {*DeepSpeedZeroConfig.model_fields}
    known |= {field.alias for field in DeepSpeedZeroConfig.model_fields.values() if field.alias}
    assert values["zero_optimization"].keys() <= known
    nested = [key for key in values if key not in ("zero_optimization",)]
    nested += [*values["bf16"], *values["data_types"], *values["timers"]["throughput"]]
    assert [key for key in nested if key not in text] == []


def test_the_grids_names_are_those_that_deepspeed_looks_for() -> None:
    text = "".join(path.read_text() for path in (SOURCES / "utils").glob("*.py"))
    text += "".join(path.read_text() for path in (SOURCES / "runtime").glob("**/*.py"))
    unit = ModelParallelUnit(ProcessGrid.single())
    names = [name for name in dir(unit) if name.startswith("get_")]
    assert [name for name in names if f"{name}" not in text] == []


def test_nothing_else_is_used() -> None:
    """New uses need an entry above."""
    assert VIEWS.keys() == OPTIMIZERS.keys()
    for file, variables in VARIABLES.items():
        used = dict(uses(OURS / file))
        modules = {owner for owner in used if owner in MODULES}
        assert used.keys() - modules == variables.keys(), file
        for owner, names in used.items():
            known = MODULES[owner] if owner in MODULES else variables[owner]
            assert names <= known, f"not listed: {owner}: {names - known}"
        # And the lists hold nothing that is not used.
        for owner, known in variables.items():
            if known is not ADDRESS:
                assert known == used[owner], owner
    addresses = dict(uses(OURS / "zero_views.py"))
    assert addresses["here"] | addresses["there"] == ADDRESS
    hidden = attributes(OURS / "zero_views.py", "parameter")
    assert {name for name in hidden if name.startswith(("_hp", "ds_"))} <= LINKED | PARTITIONED
    # The other files beside them know DeepSpeed by what engine.py hands them.
    strings = {
        node.value
        for node in ast.walk(ast.parse((OURS / "host_sync.py").read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    replaced = {"is_invalid_grad_norm", "clip_tensors_by_global_norm"}
    assert replaced <= strings
    for path in OURS.parent.rglob("*.py"):
        if path.name != "engine.py":
            assert not any(owner in MODULES for owner in dict(uses(path))), path


def uses(path: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield (module of DeepSpeed or key of VARIABLES, attributes of it that a file uses)."""
    tree, found = ast.parse(path.read_text()), dict[str, set[str]]()
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("deepspeed"):
                    aliases[name.asname or name.name] = name.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deepspeed"):
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                if whole in MODULES:
                    aliases[name.asname or name.name] = whole
                else:
                    found.setdefault(node.module or "", set()).add(name.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = _text(node.value)
            head, _, rest = owner.partition(".")
            if head in aliases:
                owner = aliases[head] + (f".{rest}" if rest else "")
                found.setdefault(owner, set()).add(node.attr)
            elif owner in VARIABLES.get(path.name, ()):
                found.setdefault(owner, set()).add(node.attr)
    yield from found.items()


def attributes(path: Path, name: str) -> set[str]:
    """Return the attributes of a variable that a file uses."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and _text(node.value) == name
    }


def _text(node: ast.expr) -> str:
    """Return an expression as text, without indices."""
    if isinstance(node, ast.Subscript):
        return f"{_text(node.value)}[]"
    if isinstance(node, ast.Attribute):
        return f"{_text(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_a_use_that_is_not_listed_is_found(tmp_path: Path) -> None:
    text = Path(engine_module.__file__).read_text()
    changed = tmp_path / "engine.py"
    changed.write_text(
        f"{text}\n\ndef more(self):\n    self._engine._secret()\n    stage3.hidden\n"
    )
    before, after = dict(uses(Path(engine_module.__file__))), dict(uses(changed))
    assert after["self._engine"] - before["self._engine"] == {"_secret"}
    assert after[STAGE_3] - before.get(STAGE_3, set()) == {"hidden"}
