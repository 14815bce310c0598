"""Program of a rank of the drill: `mmbert.pretrain` with an injection, as JSON, before its options.

The process ends with the drill, even if that is killed: it holds the other end of standard input.
"""

import os
import sys
import threading

from mmbert.errors import EXIT_FAILURE
from mmbert.waiting_threads import sleep_while_waiting


def _end_with_the_drill() -> None:
    sys.stdin.buffer.read()
    os._exit(EXIT_FAILURE)


def main() -> None:
    """Run the rank; exits with the status of the run."""
    sleep_while_waiting()
    threading.Thread(target=_end_with_the_drill, daemon=True).start()
    from mmbert import pretrain
    from mmbert.fault_drill.injection import Injection

    Injection.model_validate_json(sys.argv.pop(1)).prepare()
    pretrain.main()


if __name__ == "__main__":
    main()
