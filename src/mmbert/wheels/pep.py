"""The library `packaging`, from where this interpreter has it: on its own or inside pip."""

import sys
from typing import TYPE_CHECKING

# A bare interpreter has no `packaging` but pip's own copy, and collecting must not need a setup.
if TYPE_CHECKING:
    from packaging import requirements, specifiers, tags, utils, version
else:
    try:
        from packaging import requirements, specifiers, tags, utils, version
    except ImportError:
        try:
            from pip._vendor.packaging import requirements, specifiers, tags, utils, version
        except ImportError:
            sys.exit(
                f"error: {sys.executable} has neither packaging nor pip\n"
                f"  → {sys.executable} -m ensurepip, or name another interpreter"
            )

__all__ = ["requirements", "specifiers", "tags", "utils", "version"]
