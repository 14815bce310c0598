"""Reuse of freed memory in a CPU run."""

import subprocess
import sys


def test_freed_memory_is_kept() -> None:
    """In a separate process, because the setting cannot be undone."""
    code = (
        "import torch, mmbert_kernels\n"
        "assert mmbert_kernels.keep_freed_memory()\n"
        "torch.ones(1 << 25)\n"
        "import resource\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(40):\n"
        "    torch.ones(1 << 25)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    # 40 times 128 MiB of fresh pages would be 1,310,720 faults; it settles after two to four
    assert int(run.stdout) < 6 * 32_768
