"""Cases of the fused operations, one file per operation; new files are found automatically."""

import importlib
import pkgutil

from tests.kernels.case import Case


def all_cases() -> tuple[Case, ...]:
    """Return the cases of all files, ordered by file name."""
    found: list[Case] = []
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        cases = importlib.import_module(f"{__name__}.{name}").CASES
        assert all(case.operation == name for case in cases), name
        found += cases
    return tuple(found)
