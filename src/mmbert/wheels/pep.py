"""The `packaging` library, installed or vendored by pip."""

import sys
from typing import TYPE_CHECKING

# A bare interpreter only has the copy vendored by pip, and collecting must not require a setup.
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
                f"  → {sys.executable} -m ensurepip, or give another interpreter"
            )

__all__ = ["requirements", "specifiers", "tags", "utils", "version"]
