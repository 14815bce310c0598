"""Removes what other systems than Linux lack, in every Python process that has this on its path.

    PYTHONPATH=tests/support/without_linux python -m pytest tests/data_prep

macOS has no `os.sched_getaffinity`, `os.posix_fadvise` or `/proc`, and no Triton; `os.fork` is
there but unsafe once frameworks have started threads.
"""

import os
import sys
from typing import Any

for _name in ("fork", "forkpty", "posix_fadvise", "sched_getaffinity", "sched_setaffinity"):
    if hasattr(os, _name):
        delattr(os, _name)

_missing: dict[str, Any] = sys.modules  # None: the import fails
_missing["triton"] = None


def _hide_proc(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("open", "os.listdir", "os.scandir"):
        return
    path = arguments[0]
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str) or not path.startswith("/proc"):
        return
    # psutil has code of its own for each system.
    caller = sys._getframe(1).f_globals.get("__name__", "")
    if not caller.startswith("psutil"):
        raise FileNotFoundError(2, "removed by tests/support/without_linux", path)


sys.addaudithook(_hide_proc)
