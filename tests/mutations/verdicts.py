"""Persistent verdicts, valid as long as the tree and the patch are unchanged."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tests.mutations.faults import Fault
from tests.mutations.trials import Trial, Verdict
from tests.support import json_lines


class Verdicts:
    """File of trials and of tests that are known to pass without a fault."""

    def __init__(self, path: Path, tree: str) -> None:
        """Load the known verdicts.

        Args:
            path: the file, created when a verdict is added.
            tree: fingerprint of everything except the patches.
        """
        self._path, self._tree = path, tree
        path.parent.mkdir(parents=True, exist_ok=True)
        known = list(json_lines.records(path))
        self._sound = {record["tests"] for record in known if "tests" in record}
        self._trials = {record["key"]: record["trial"] for record in known if "key" in record}

    def without_known(self, faults: Iterable[Fault]) -> list[Fault]:
        """Return the faults without a known verdict, including broken ones, for a new trial."""
        return [fault for fault in faults if self._key(fault) not in self._trials]

    def trials(self, faults: Iterable[Fault]) -> list[Trial]:
        """Return the known trials of `faults`."""
        found = [self._trials[key] for key in map(self._key, faults) if key in self._trials]
        return [Trial(**{**record, "verdict": Verdict(record["verdict"])}) for record in found]

    def is_sound(self, fault: Fault) -> bool:
        """Return whether the fault's tests are known to pass without it."""
        return self._tests(fault) in self._sound

    def add_sound(self, fault: Fault) -> None:
        self._sound.add(self._tests(fault))
        json_lines.append(self._path, {"tests": self._tests(fault)})

    def add(self, fault: Fault, trial: Trial) -> None:
        """Store a trial unless it is broken: causes outside tree and patch may be fixed later."""
        if trial.verdict is not Verdict.BROKEN:
            self._trials[self._key(fault)] = asdict(trial)
            json_lines.append(self._path, {"key": self._key(fault), "trial": asdict(trial)})

    def _tests(self, fault: Fault) -> str:
        return _hash(self._tree, repr((fault.tests, fault.environment)))

    def _key(self, fault: Fault) -> str:
        return _hash(self._tree, fault.path.read_text(encoding="utf-8"))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
