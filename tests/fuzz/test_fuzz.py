"""Every parser on mutated inputs: a valid result or an error for the user, in bounded memory."""

import random
import resource
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from mmbert.errors import UserError
from tests.fuzz.mutations import mutate_file, mutate_text
from tests.fuzz.parsers import ALL_PARSERS, FileParser, TextParser

CASES = 50
LONG_CASES = 10_000
SECONDS = 60
"""Time after which a case hangs."""
MEMORY = 1 << 30
"""Bytes by which reading small files may raise the peak."""


class HangError(Exception):
    """A case took too long."""


def _hang(number: int, frame: FrameType | None) -> None:
    raise HangError


def run_case(parser: FileParser | TextParser, seed: int, folder: Path, sound: list[Path]) -> None:
    """Read one mutated input; restores the file afterwards."""
    generator = random.Random(f"{parser.name} {seed}")
    if isinstance(parser, TextParser):
        text = mutate_text(generator.choice(parser.samples), generator)
        _expect(parser, seed, lambda: parser.read(text), parser.raises)
        return
    victim = generator.choice(sound)
    content = victim.read_bytes()
    victim.write_bytes(mutate_file(victim.name, content, generator))
    try:
        parser.after(victim)
        _expect(parser, seed, lambda: parser.read(folder), ())
    finally:
        victim.write_bytes(content)


def _expect(
    parser: FileParser | TextParser,
    seed: int,
    read: Callable[[], object],
    raises: tuple[type[Exception], ...],
) -> None:
    try:
        read()
    except UserError as error:
        if not (error.message and error.remedy):
            raise AssertionError(f"{parser.name}, seed {seed}: no remedy") from error
    except raises:
        pass
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise AssertionError(f"{parser.name}, seed {seed}: {type(error).__name__}") from error


def fuzz(parser: FileParser | TextParser, seeds: range, folder: Path) -> None:
    """Run the cases of `seeds`."""
    place = folder / "inputs"
    sound = list(parser.write(place)) if isinstance(parser, FileParser) else []
    if isinstance(parser, FileParser):
        seeds = seeds[: int(parser.share * len(seeds))]
    if isinstance(parser, FileParser):
        parser.read(place)
        assert sound
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGALRM, _hang)
    try:
        for seed in seeds:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run_case(parser, seed, place, sound)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        shutil.rmtree(place, ignore_errors=True)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MEMORY, f"{parser.name}: {grown >> 20} MiB more"


@pytest.mark.parametrize("parser", ALL_PARSERS, ids=lambda parser: parser.name)
def test_mutated_inputs(parser: FileParser | TextParser, tmp_path: Path) -> None:
    fuzz(parser, range(CASES), tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("parser", ALL_PARSERS, ids=lambda parser: parser.name)
def test_many_mutated_inputs(parser: FileParser | TextParser, tmp_path: Path) -> None:
    fuzz(parser, range(1000, 1000 + LONG_CASES), tmp_path)
