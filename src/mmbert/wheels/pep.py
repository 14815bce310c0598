"""The library `packaging`, from where this interpreter has it: on its own or inside pip."""

from typing import TYPE_CHECKING

# A bare interpreter has no `packaging` but pip's own copy, and collecting must not need a setup.
if TYPE_CHECKING:
    from packaging import markers, requirements, specifiers, tags, utils, version
else:
    try:
        from packaging import markers, requirements, specifiers, tags, utils, version
    except ImportError:
        from pip._vendor.packaging import markers, requirements, specifiers, tags, utils, version

__all__ = ["markers", "requirements", "specifiers", "tags", "utils", "version"]
