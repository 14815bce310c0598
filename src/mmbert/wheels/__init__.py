"""Python packages for machines without a network: collecting wheels and installing from them.

Runs on a bare interpreter (`python3 -m mmbert.wheels`, with pip and nothing else), before any
setup, so nothing here imports a third-party package but `packaging`, which pip carries with it.
"""

import sys

# Said here, as the modules below would not even be read by an older one.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("error: Python 3.11 or newer is needed\n  → name one: PYTHON=python3.12")
