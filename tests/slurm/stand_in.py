"""Stand-in for the training program, for tests of slurm/pretrain.sbatch itself.

Takes the options of training, then key=value. `do=report` prints its rank and environment and
exits. `do=wait` waits for a signal, "saves", exits with 75 (rank r after r × `apart` seconds), and
with 0 once restarted. `do=deaf` is killed by the signal, like a rank that is still importing.
`do=fail` makes rank 2 fail with status 3 while the others hang, and `do=die` every rank; both
succeed from start `until` on. `do=full` reports a full disk as training does.
"""

import os
import signal
import sys
import time
from types import FrameType

from mmbert.files import NoSpaceError
from mmbert.journals.rank_failures import report_failure

RANK = int(os.environ["SLURM_PROCID"])
OPTIONS = dict(word.split("=", 1) for word in sys.argv[7:] if "=" in word)


def wait_for_signal() -> None:
    """Wait for USR1 or TERM."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)

    signal.signal(signal.SIGUSR1, handle)
    signal.signal(signal.SIGTERM, handle)
    print("waiting", flush=True)
    while not received:
        time.sleep(0.05)
    print(f"received {signal.Signals(received[0]).name}", flush=True)


def main() -> int:
    """Act as the options say and return the exit status."""
    restarted = "SLURM_RESTART_COUNT" in os.environ
    if OPTIONS["do"] == "report":
        names = ("SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "MASTER_ADDR", "CUDA_VISIBLE_DEVICES")
        said = " ".join(f"{name}={os.environ.get(name)}" for name in names)
        print(f"{os.uname().nodename} {said} {sys.argv[1:]}", flush=True)
    elif restarted or int(os.environ["MMBERT_START"]) >= int(OPTIONS.get("until", "99")):
        print(f"continues {os.environ['MASTER_PORT']}", flush=True)
    elif OPTIONS["do"] == "wait":
        wait_for_signal()
        time.sleep(RANK * float(OPTIONS["apart"]))
        print("saved", flush=True)
        return 75
    elif OPTIONS["do"] == "deaf":
        print("importing", flush=True)
        time.sleep(60)
    elif OPTIONS["do"] == "fail":
        if RANK == 2:
            print("RuntimeError: the cause", flush=True)
            return 3
        time.sleep(600)
    elif OPTIONS["do"] == "die":
        return 3
    elif OPTIONS["do"] == "full":
        report_failure(RANK, NoSpaceError("no space left while writing x", remedy="free some"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
