"""Reading checkpoints does not import DeepSpeed."""

import subprocess
import sys
from pathlib import Path

from mmbert.model.config import encoder_config
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.process_grid import TensorGroup
from tests.support.environment import with_packages
from tests.support.tokenizers import metaspace_tokenizer
from tests.support.written_runs import recipe, save_run

PROGRAM = """
import sys
from pathlib import Path

from rich.console import Console

from mmbert.errors import UserError
from mmbert.evaluation.loaded_model import LoadedModel
from mmbert.hub import export  # `mmbert export`; other tests run it
from mmbert.merging.merge_run import merge_run
from mmbert.hub.model_source import open_model
from mmbert.inspection.checkpoints import render_checkpoint, render_run
from mmbert.checkpoint.store import CheckpointStore

run = Path(sys.argv[1])
console = Console()
render_run(run, console)
checkpoint = CheckpointStore(run / "checkpoints").latest_valid()
render_checkpoint(checkpoint, console)
for name, weight in open_model(checkpoint).items():
    assert weight.isfinite().all(), name
LoadedModel(checkpoint, "cpu")
try:
    merge_run(run, run / "merged")
except UserError as error:  # after reading the recipe from the newest checkpoint
    assert "has no `merge`" in error.message
else:
    raise AssertionError("this run has nothing to merge")
assert "deepspeed" not in sys.modules
"""


def test_reading_checkpoints_loads_no_deepspeed(tmp_path: Path) -> None:
    config = encoder_config(recipe().model, metaspace_tokenizer().get_vocab_size())
    model = MaskedLanguageModel(config, TensorGroup.single(), sequence_parallel=False)
    initialize_parameters(model, 1)
    save_run(tmp_path, model)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path],
        env=with_packages(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
