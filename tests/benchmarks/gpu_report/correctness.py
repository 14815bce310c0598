"""Part of the GPU report, and `make test-gpu`: the GPU tests by file, kernels first."""

import importlib.util
import subprocess
import sys

from tests.benchmarks.gpu_report.options import device_of, part_parser
from tests.support.environment import ROOT, on_a_gpu, with_packages
from tests.support.gpu_files import gpu_test_files

# Of tests that need none, those that try this program in a second.
ON_A_CPU = ("tests/kernels/test_references.py", "-m", "not gpu and not long", "-k", "geglu")
# What most figures depend on, should time run out.
FIRST = "tests/kernels/"
# Most of a test's time is Triton's compiler, which runs on the host.
WORKERS = 4


def command(device: str) -> list[str]:
    """Return the pytest command for the GPU tests, with workers if xdist is installed."""
    files = sorted(gpu_test_files(), key=lambda name: not name.startswith(FIRST))
    chosen = ON_A_CPU if device == "cpu" else ("-m", "gpu", *files)
    workers = device == "cuda" and importlib.util.find_spec("xdist") is not None
    return [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-p", "tests.benchmarks.gpu_report.outcomes"),
        *(("-n", str(WORKERS), "--dist", "worksteal") if workers else ()),
        *chosen,
    ]


def main() -> int:
    """Run the tests; exit status 2 without a GPU, otherwise pytest's."""
    arguments = part_parser(__doc__).parse_args()
    device_of(arguments)
    environment = with_packages(ROOT) if arguments.device == "cpu" else on_a_gpu(ROOT)
    run = subprocess.run(command(arguments.device), cwd=ROOT, env=environment, check=False)
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
