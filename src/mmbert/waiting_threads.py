"""How the threads of a process wait for each other on a CPU that others use too."""

import os


def sleep_while_waiting() -> None:
    """Let OpenMP threads sleep at the end of a parallel region; call before torch is imported.

    They spin by default, which takes the processor from the thread that they wait for as soon as
    more threads run than there are cores: of two processes on the same cores, both become many
    times slower. An OMP_WAIT_POLICY of the user stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
