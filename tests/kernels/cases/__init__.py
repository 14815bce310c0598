"""The fused operations' cases, one file an operation; a new file is found by its name."""

import importlib
import pkgutil

from tests.kernels.case import Case


def all_cases() -> tuple[Case, ...]:
    """The cases of all files, in the order of the files' names."""
    found: list[Case] = []
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        cases = importlib.import_module(f"{__name__}.{name}").CASES
        assert all(case.operation == name for case in cases), name
        found += cases
    return tuple(found)
