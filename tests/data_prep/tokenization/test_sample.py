"""The sample for the tokenizer: from all files, without held-out documents."""

import json
from pathlib import Path

import pytest

from mmbert_prep.executor.progress import Meter
from mmbert_prep.executor.work_units import plan_work_units
from mmbert_prep.filters.cleaning import Cleaner, content_hashes, heldout_mask
from mmbert_prep.losses.ledger import LossLedger, SurveyLedger
from mmbert_prep.losses.plan import planned_input
from mmbert_prep.readers.discovery import discover
from mmbert_prep.tokenization.sample import TokenizerSampler
from tests.support.texts import settings


def sample(folder: Path, output: Path, **changes: float) -> list[str]:
    """Return the texts sampled from the corpus in `folder`, a single work unit."""
    chosen = settings(folder, output, unit_bytes=1 << 20, **changes)
    plan = plan_work_units(discover(chosen), chosen)
    (unit,) = plan.units
    output.mkdir()
    meter = Meter(output, "sample", 0)
    planned = planned_input(discover(chosen), plan)
    ledger = LossLedger(output / "losses", "survey", [unit.key], planned, chosen, workers=1)
    sampler = TokenizerSampler(plan, chosen, SurveyLedger({unit.key: [ledger]}))
    sampler.sample_unit(unit, Cleaner(chosen), output / "sample", meter)
    lines = (output / "sample").read_text(encoding="utf-8").splitlines()[1:]
    return [json.loads(line)[2] for line in lines]


def write(folder: Path, documents: list[str], files: int) -> Path:
    """Write the documents to several files of one language."""
    (folder / "eng_Latn").mkdir(parents=True)
    for number in range(files):
        text = "\n\n".join(documents[number::files])
        (folder / "eng_Latn" / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


DOCUMENTS = [f"document {number} " + "of some words " * 20 for number in range(200)]


def test_held_out_documents_are_not_in_it(tmp_path: Path) -> None:
    texts = sample(write(tmp_path / "text", DOCUMENTS, 1), tmp_path / "out", heldout_share=0.5)
    held_out = heldout_mask(content_hashes([text.encode() for text in texts]), 0.5)
    assert len(texts) > 10
    assert not held_out.any()


@pytest.mark.parametrize("files", [2, 20])
def test_it_does_not_depend_on_the_number_of_files(tmp_path: Path, files: int) -> None:
    """The budget of a work unit covers all of its small files."""
    one = sample(write(tmp_path / "one", DOCUMENTS, 1), tmp_path / "out-1")
    many = sample(write(tmp_path / "many", DOCUMENTS, files), tmp_path / "out-2")
    assert len(one) > 20
    assert sorted(one) == sorted(many)
