"""Run folders written without training: logs, results and recipes for `mmbert report`."""

import bisect
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

PHASES = ("pretrain", "extension", "decay")
PARTS = ("backward", "communication", "data", "forward", "optimizer")


@dataclass(frozen=True)
class LoggedRun:
    """A run of equal phases, logged at every step."""

    steps: int = 30
    languages: tuple[str, ...] = ("deu_Latn", "ell_Grek", "eng_Latn")
    phases: tuple[str, ...] = PHASES
    name: str = "logged"
    restarts: tuple[tuple[int, int], ...] = ((17, 14),)
    """Step at which training ends, and step from which it goes on."""
    tokens_per_step: int = 1024
    languages_every: int = 10
    seed: int = 0
    details: bool = True
    """Whether starts have recipe, versions and training tokens."""
    events: tuple[Mapping[str, Any], ...] = ()
    """Further events, each written after the first record of its step."""
    further: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of every record."""

    def write(self, folder: Path, fingerprint: str = "a" * 64) -> Path:
        """Write the folder of the run, and return it."""
        (folder / "tokenizer").mkdir(parents=True)
        write_fingerprint(folder, fingerprint)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(self.recipe(1e-3)), encoding="utf-8")
        with open(folder / "log.jsonl", "w", encoding="utf-8") as file:
            for entry in self.entries():
                file.write(json.dumps(entry) + "\n")
        (folder / "results.json").write_text(json.dumps(self.results()), encoding="utf-8")
        return folder

    def entries(self) -> Iterator[dict[str, Any]]:
        """Return the lines of the log, those that restarts made void included."""
        generator = random.Random(self.seed)
        pending = sorted(self.events, key=lambda event: event["step"])
        step = 0
        for number, (until, back) in enumerate([*self.restarts, (self.steps, self.steps)]):
            yield self._start(step, number)
            if step == 0:
                yield self._held_out(0)
            while step < until:
                step += 1
                yield self._record(step, generator)
                while pending and pending[0]["step"] <= step:
                    yield {"time": 1.8e9 + step, **pending.pop(0)}
                if step in self._bounds:
                    yield self._held_out(step)
            step = back

    @property
    def _bounds(self) -> list[int]:
        """First step of each phase, and the last step of all."""
        count = len(self.phases)
        return [self.steps * number // count for number in range(count + 1)]

    def _phase_at(self, step: int) -> int:
        """Return the index of the phase that `step` completed steps are in."""
        return max(0, bisect.bisect_left(self._bounds, step) - 1)

    def recipe(self, rate: float) -> dict[str, Any]:
        """Return a recipe as `recipe.yaml` has it."""
        return {
            "name": self.name,
            "optimizer": {"learning_rate": rate},
            "phases": [{"name": name, "languages": list(self.languages)} for name in self.phases],
        }

    def results(self) -> dict[str, Any]:
        """Return the content of results.json."""
        phases = [
            {
                "name": name, "context": 128, "mask_ratio": 0.3, "temperature": "0.7",
                "languages": len(self.languages),
                "planned_tokens": (end - begin) * self.tokens_per_step,
                "first_step": begin, "end_step": end, "tokens": (end - begin) * 1024,
                "seconds": 9.5, "held_out_start": self._losses(begin),
                "held_out_end": self._losses(end), "tokens_per_second": 100.0,
            }
            for name, begin, end in zip(self.phases, self._bounds, self._bounds[1:], strict=False)
        ]  # fmt: skip
        return {"name": self.name, "devices": 2, "phases": phases, "unigram": self._losses(-1)}

    def _start(self, step: int, number: int) -> dict[str, Any]:
        details = {
            "recipe": self.recipe(1e-3 / (number + 1)), "hosts": 1, "devices": 2 + number,
            "device_name": "H100", "versions": {"mmbert": "0.1.0", "torch": f"2.1{number}.0"},
            "train_tokens_by_language": {
                name: 10 ** (3 + at % 7) + at for at, name in enumerate(self.languages)
            },
        }  # fmt: skip
        text = f"starting {self.name}" if step == 0 else f"continuing at step {step}"
        entry = {"time": 1.8e9 + step, "event": "start", "step": step, "text": text}
        return {**entry, **(details if self.details else {})}

    def _losses(self, step: int) -> dict[str, Any]:
        base = 9.0 - 4.0 * step / self.steps
        return {
            "overall": base,
            "tiers": {name: base + 0.1 * at for at, name in enumerate(self.phases)},
            "languages": {
                name: 9.0 - (1.0 + at % 23 / 10) * step / self.steps
                for at, name in enumerate(self.languages)
            },
        }

    def _held_out(self, step: int) -> dict[str, Any]:
        phase = self.phases[self._phase_at(step)]
        entry = {"time": 1.8e9 + step, "event": "held-out", "step": step, "text": "held-out loss"}
        return {**entry, "phase": phase, "seconds": 1.0, **self._losses(step)}

    def _record(self, step: int, generator: random.Random) -> dict[str, Any]:
        noise = generator.random
        at = self._phase_at(step)
        loss = 9.0 - 4.0 * step / self.steps + 0.3 * noise()
        record: dict[str, Any] = {
            "time": {name: round(0.2 * noise(), 4) for name in PARTS},
            "step": step, "steps": self.steps, "phase": self.phases[at],
            "tokens": step * self.tokens_per_step, "loss": loss, "step_loss": loss + 0.01,
            "learning_rate": 1e-3, "weight_decay": 1e-4, "gradient_norm": 0.5 + noise(),
            "update_rms_clipped_share": noise(), "mask_ratio": (0.3, 0.15, 0.05)[at % 3],
            "dropout": 0.1, "temperature": (0.7, 0.5, 0.3)[at % 3], "packing_efficiency": 0.97,
            "rows_per_step": 4, "share_error_max": 0.1 * noise(), "epochs_max": step / 100,
            "epochs_median": step / 200, "tokens_per_second": 1e5 + 1e4 * noise(),
            "tokens_per_second_per_device": 5e4, "mfu": 0.25 + 0.1 * noise(),
            "model_flops_per_second": 1e14 * noise() + 1e13, "interval_seconds": 1.0,
            "peak_memory_mib": 40000.0, "seconds_left_in_phase": 10.0, "seconds_left": 20.0,
            "loss_by_tier": {name: loss + 0.2 * n for n, name in enumerate(self.phases[: at + 1])},
            **self.further,
        }  # fmt: skip
        if step % self.languages_every == 0:
            count = len(self.languages)
            for key, values in {
                "loss_by_language": [loss] * count,
                "share_by_language": [(n + 1 + noise()) / count**2 for n in range(count)],
                "wanted_share_by_language": [(n + 1.5) / count**2 for n in range(count)],
                "epochs_by_language": [step / 100 * noise() for _ in range(count)],
            }.items():
                record[key] = dict(zip(self.languages, values, strict=True))
        return record


def write_fingerprint(folder: Path, fingerprint: str) -> None:
    """Write the description of a run's tokenizer."""
    ids = dict(zip(("pad", "begin", "end", "unknown", "mask"), range(5), strict=True))
    description = {"kind": "sentencepiece", "vocabulary_size": 300, "special_ids": ids}
    path = folder / "tokenizer" / "description.json"
    path.write_text(json.dumps({**description, "fingerprint": fingerprint}))


def languages(count: int) -> tuple[str, ...]:
    """Return names of languages."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [f"{a}{b}{c}_Latn" for a in letters for b in letters for c in letters]
    return tuple(names[:count])


def lines_of(log: Sequence[Mapping[str, Any]]) -> bytes:
    """Return entries as the bytes of a log."""
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in log)
