"""Explanation of every kind of `UserError`: meaning, remedy and a real example.

docs/faults.md is generated from this table. Tests provoke every example and compare what is
printed.
"""

import inspect
from dataclasses import dataclass

from mmbert.errors import (
    EXIT_USER_ERROR,
    ArgumentError,
    CheckpointError,
    DeviceError,
    DivergenceError,
    EvaluationDataError,
    LauncherError,
    ModelError,
    OutputError,
    PackageError,
    RecipeError,
    ResumeError,
    SamplingError,
    ShardsError,
    TextError,
    TokenizerError,
    UserError,
)


@dataclass(frozen=True)
class ErrorKind:
    """A kind of error, with an example."""

    error: type[UserError]
    action: str
    """General remedy, in Markdown."""
    situation: str
    """Cause of the example, in Markdown."""
    command: str
    """Command of the example."""
    printed: str
    """Standard error of the example, from `error:` on."""
    exit_status: int = EXIT_USER_ERROR

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.error.__name__

    @property
    def meaning(self) -> str:
        """One sentence: the docstring of the class."""
        return inspect.getdoc(self.error) or ""


ERROR_KINDS = (
    ErrorKind(
        error=ArgumentError,
        action="Correct the argument. The message names the valid values, or `--help` lists them.",
        situation="The planner has no data about the GPU.",
        command="mmbert plan my_recipe.yaml --gpu h1000",
        printed="error: unknown GPU 'h1000'\n"
        "  → choose one of: b200, h200, h100, a100, a100-40gb, l40s, rtx-4090",
    ),
    ErrorKind(
        error=RecipeError,
        action="Correct the recipe at the file, line and key in the message, or the override. "
        "All invalid values are listed at once. `mmbert plan RECIPE` reads a recipe without "
        "training.",
        situation="A misspelled key.",
        command="mmbert plan my_recipe.yaml phases.decay.mask_ratoi=0.05",
        printed="error: my_recipe.yaml:19: phases.decay: unknown key 'mask_ratoi'; did you mean "
        "'mask_ratio'?\n"
        "  → fix the recipe or the override and run again",
    ),
    ErrorKind(
        error=TextError,
        action="Check the path of the input, the place of the language (path, column or "
        "`--language`) and the columns (`--text-column`, `--language-column`). `--dry-run` lists "
        "the input files with their languages. Finished work is kept: after the fix, run the same "
        "command again.",
        situation="`my_corpus` contains one file, `notes.txt`.",
        command="python -m mmbert_prep --input my_corpus --output my_shards",
        printed="error: no text to read in my_corpus (text whose path names no language: 1)\n"
        "  → give a folder or pattern with .parquet, .jsonl, .txt, .mds, .idx, .arrow, .csv files "
        "(of some formats also .gz, .zst, .bz2 and .xz) whose path names the language "
        "(swh_Latn/…, swh_Latn.txt) or that have language columns; or name the "
        "language with --language",
    ),
    ErrorKind(
        error=TokenizerError,
        action="Shards, model and evaluation data share one tokenizer. Give the one that they were "
        "made with (`SHARDS/tokenizer`, `RUN/tokenizer`), or preprocess with the other tokenizer "
        "into another folder.",
        situation="`my_shards` was made with a tokenizer of its own; a second source is to be "
        "added with another one.",
        command="python -m mmbert_prep --input my_corpus --output my_shards --source web "
        "--tokenizer gemma.model",
        printed="error: my_shards/tokenizer is a different tokenizer than gemma.model\n"
        "  → use another output folder, or omit the option: all sources of an output folder share "
        "its tokenizer",
    ),
    ErrorKind(
        error=ShardsError,
        action="Unfinished shards: run the same preprocessing command again. Damaged shards: "
        "restore the named file from a copy, or remove `summary.json` from the source's folder and "
        "run the same preprocessing command again, which remakes the source. `mmbert inspect "
        "SHARDS --verify` compares all checksums.",
        situation="One byte of a shard has changed.",
        command="mmbert inspect my_shards --verify",
        printed="error: my_shards/text/eng_Latn/train-00000.bin is corrupted (checksum mismatch)\n"
        "  → restore the file from a copy, or remove my_shards/text/summary.json and run the same "
        "preprocessing command again, which remakes the source",
    ),
    ErrorKind(
        error=SamplingError,
        action="Preprocess more text, or change `data.sources` or the languages of the phase. "
        "`mmbert plan RECIPE --data SHARDS` computes the mixture of every phase without training.",
        situation="`my_shards` contains no French.",
        command="mmbert plan my_recipe.yaml --data my_shards --gpus 1 "
        "'phases.decay.languages=[fra_Latn]'",
        printed="error: phases.decay.languages selects none of the 4 languages of source 'text'; "
        "it names fra_Latn\n"
        "  → name languages as iso639-3_Script, or lower the minimum size; the source holds: "
        "deu_Latn, ell_Grek, eng_Latn, swh_Latn",
    ),
    ErrorKind(
        error=LauncherError,
        action="Start all processes with one launcher (`deepspeed`, `torchrun`, `srun` or "
        "`mpirun`), one per GPU. Their number must be a multiple of `parallel.tensor`, and the "
        "quotient must divide `batch.quantum`: the message names the numbers that fit. Nodes that "
        "disagree, in a variable for example, are named: see [several "
        "nodes](training.md#several-nodes).",
        situation="A batch script of a Slurm job with 16 tasks that starts the training without "
        "`srun`, so that only one process starts.",
        command="python -m mmbert.pretrain --recipe my_recipe.yaml --data my_shards "
        "--output my_run",
        printed="error: the world size is 1, but the Slurm job has 16 tasks (SLURM_NTASKS)\n"
        "  → start the tasks with `srun python -m mmbert.pretrain …`, or give the launcher an "
        "absolute --hostfile that lists every node",
    ),
    ErrorKind(
        error=DeviceError,
        action="`mmbert doctor` lists devices, implementations and what is missing. Unset "
        "environment variables that force an implementation, or change the key of the recipe that "
        "the message names. If a phase does not fit into memory, see [Out of "
        "memory](#out-of-memory).",
        situation="An attention implementation for GPUs, on a machine without one.",
        command="MMBERT_ATTENTION=varlen python -m mmbert.pretrain --recipe my_recipe.yaml "
        "--data my_shards --output my_run",
        printed="error: MMBERT_ATTENTION=varlen does not run on cpu\n"
        "  → unset MMBERT_KERNELS and MMBERT_ATTENTION, or set them to what runs here",
    ),
    ErrorKind(
        error=CheckpointError,
        action="Use another checkpoint of the run (`mmbert inspect RUN` lists them), restore the "
        "named one from a copy, or train further until there is one. Training skips damaged "
        "checkpoints by itself.",
        situation="A file of the checkpoint is truncated.",
        command="mmbert export my_run/checkpoints/step-00000018 my_model",
        printed="error: my_run/checkpoints/step-00000018/rank-00000.safetensors is truncated "
        "(343684 of 343784 bytes)\n"
        "  → delete the folder my_run/checkpoints/step-00000018 or restore it from a copy; earlier "
        "checkpoints are not affected",
    ),
    ErrorKind(
        error=ResumeError,
        action="Restore the setting or the data that the message names, to continue. To keep the "
        "new ones, give another output folder, or `--replace` in preprocessing.",
        situation="`my_run` was trained with another seed.",
        command="python -m mmbert.pretrain --recipe my_recipe.yaml --data my_shards "
        "--output my_run seed=4",
        printed="error: cannot resume my_run/checkpoints/step-00000018: it was trained with "
        "seed=5, the recipe has seed=4\n"
        "  → set seed back, or start a new run in another --output",
    ),
    ErrorKind(
        error=ModelError,
        action="Give a model of ModernBERT's architecture with its masked-language-model head, in "
        "safetensors. Models to merge need the same architecture. With `initial_checkpoint`, the "
        "recipe's `model` must have the values that `mmbert import` prints. A model with other "
        "logits in transformers, or a key of config.json that is unknown here, is not imported: "
        "install the transformers version that wrote it, or use the file as published.",
        situation="The folder contains a BERT model.",
        command="mmbert import bert-base imported",
        printed="error: bert-base/config.json: model_type is 'bert', not 'modernbert'\n"
        "  → only ModernBERT checkpoints (ModernBERT, mmBERT, Ettin encoders, …) can be imported",
    ),
    ErrorKind(
        error=OutputError,
        action="Give another output, remove the existing one, free space, or wait for the other "
        "run. Finished checkpoints and finished work are kept: after the fix, run the same command "
        "again.",
        situation="The output folder exists.",
        command="mmbert export my_run my_model",
        printed="error: my_model already exists\n  → give another folder, or remove this one",
    ),
    ErrorKind(
        error=EvaluationDataError,
        action="Correct the file at the line in the message: UTF-8, one example per line, "
        "identifier or label and text separated by a tab. Held-out losses need shards with a "
        "held-out split (`--heldout-fraction` of preprocessing). `--decontaminate` takes .txt, "
        ".tsv, .jsonl and .json files, also compressed.",
        situation="Line 2 of `swh_Latn.tsv` has a space in place of the tab.",
        command="mmbert evaluate my_model --retrieval eng_Latn.tsv --retrieval swh_Latn.tsv",
        printed="error: swh_Latn.tsv:2: expected identifier, tab and text\n"
        "  → write each line as identifier<tab>text",
    ),
    ErrorKind(
        error=PackageError,
        action="Install the package that the message names. Without a network, collect wheels "
        "elsewhere with `make wheels` and install them with `make setup WHEELS=DIR`.",
        situation="The `datasets` package is not installed.",
        command="python -m mmbert_prep --input hf:HuggingFaceFW/fineweb-2:swh_Latn "
        "--output my_shards",
        printed="error: reading a dataset by name needs the datasets library\n"
        "  → pip install datasets, or download the files and give their folder",
    ),
    ErrorKind(
        error=DivergenceError,
        action="Inspect the rows of the steps (`mmbert inspect RUN --step N --data SHARDS`), lower "
        "the learning rate or clip gradients, and resume. See [Non-finite "
        "loss](#non-finite-loss).",
        situation="A learning rate of 1e30, and no tolerance for non-finite steps.",
        command="python -m mmbert.pretrain --recipe my_recipe.yaml --data my_shards "
        "--output my_run optimizer.learning_rate=1e30 guard.non_finite_limit=0",
        printed="error: the loss or gradient was not finite in 1 of the last 1000 steps, most "
        "recently in step 1 (guard.non_finite_limit is 0)\n"
        "  → inspect the logged rows (mmbert inspect --step), lower the learning rate or set "
        "optimizer.gradient_clipping, and resume from the last checkpoint",
    ),
)
"""All kinds, in the order in which a user meets them."""
