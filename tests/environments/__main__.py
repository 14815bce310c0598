"""`python3 -m tests.environments oldest|newest|versions [pytest arguments]`: run tests there."""

import os
import sys

from mmbert.errors import EXIT_USER_ERROR, UserError
from tests.environments.making import RESOLUTIONS, make_environment, run_tests
from tests.environments.version_sets import run_with_versions

VERSIONS = "versions"


def main(kind: str, arguments: list[str]) -> int:
    """Run pytest in the environment, creating it if necessary; returns its exit status.

    `versions` are those of tests.environments.version_sets.
    """
    try:
        if kind == VERSIONS:
            return run_with_versions(arguments)
        python = make_environment(kind)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    # Its own programs (deepspeed, mmbert) before those of the environment that make puts first.
    os.environ["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return run_tests(python, arguments)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in (*RESOLUTIONS, VERSIONS):
        sys.exit(f"{__doc__}")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
