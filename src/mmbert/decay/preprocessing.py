"""Preprocessing of a decay: one source for the user's text, one for the old languages."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from mmbert.decay.filled_recipe import sources_of
from mmbert.decay.layout import DecayFolder
from mmbert.decay.request import DecayRequest
from mmbert.hub.configuration import read_configuration
from mmbert.launching import RunIncompleteError, exit_status
from mmbert.recipe import load_recipe

PROGRAM = (sys.executable, "-m", "mmbert_prep")


def preprocessing_options(
    request: DecayRequest, folder: DecayFolder, *, old: bool
) -> tuple[str, ...]:
    """Return the options of `mmbert_prep` for one of the two sources, without `--workers`."""
    sources = sources_of(request)
    recipe = load_recipe(request.recipe, request.overrides)
    # As the recipe will be filled in, once the model's context is known.
    longest = (
        read_configuration(folder.imported).context
        if folder.imported.is_dir()
        else recipe.longest_context
    )
    contexts = sorted({min(phase.context, longest) for phase in recipe.phases})
    source = sources.old if old else sources.new
    text = request.old if old else request.input
    assert source is not None
    assert text is not None
    return (
        *("--input", text, "--output", str(folder.shards), "--source", source),
        *("--tokenizer", str(folder.imported)),
        *(word for context in contexts for word in ("--context", str(context))),
        *(request.preprocess_old if old else request.preprocess),
    )


def run_preprocessing(options: Sequence[str], workers: int | None) -> None:
    """Run the program in the foreground; an interruption is passed on to it.

    Raises:
        RunIncompleteError: it failed; the same call continues it.
    """
    words = [*PROGRAM, *options, *(() if workers is None else ("--workers", str(workers)))]
    previous = signal.signal(signal.SIGTERM, _leave)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        status = process.wait()
    except BaseException:  # Ctrl-C or SIGTERM: it stops its workers and releases its lock
        process.terminate()
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    if status:
        raise RunIncompleteError(
            f"the preprocessing failed with exit status {status}; repeat the command to continue",
            exit_status(status),
        )


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
