"""`python3 -m tests.environments oldest|newest [pytest's arguments]`: the suite in that one."""

import os
import sys

from mmbert.errors import EXIT_USER_ERROR, UserError
from tests.environments.making import RESOLUTIONS, make_environment, run_tests


def main(kind: str, arguments: list[str]) -> int:
    """Make or find the environment and run pytest in it; its exit status."""
    try:
        python = make_environment(kind)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    # Its programs (deepspeed, mmbert), and not those of the environment that make puts first.
    os.environ["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return run_tests(python, arguments)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in RESOLUTIONS:
        sys.exit(f"{__doc__}")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
