"""Offline installation: collects wheels on a connected machine, installs them on an offline one.

Runs on a bare interpreter with only pip (`python3 -m mmbert.wheels`), before any setup. The only
third-party import is therefore `packaging`, which pip vendors.

- `collecting`, `resolution`: which wheels another machine lacks, and their download.
- `installing`, `folder`: which of them this interpreter lacks, and their installation.
- `required`: the requirements in setup.py.
- `target`: the machine to collect for.
- `installed`: parser of `pip list` output.
- `programs`: uv and pip.
- `pep`: the `packaging` library.
"""

import sys

# Checked here: older interpreters cannot parse the modules below.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("error: Python 3.11 or newer is required\n  → give one: PYTHON=python3.12")
