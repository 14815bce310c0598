"""Options of preprocessing, as annotated types: one for each parameter of the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmbert.command_line.values import parse_path, parse_shards_output
from mmbert.recipe import parse_quantity


def _parse_quantity(text: str) -> int:
    try:
        return parse_quantity(text)
    except ValueError as error:
        # Of a ValueError, older releases of click report only the value.
        raise typer.BadParameter(str(error)) from error


def _quantity(*names: str, unit: str, help: str) -> Any:
    return typer.Option(*names, parser=_parse_quantity, metavar=unit, help=help)


Input = Annotated[
    str | None, typer.Option(help="Text: folder, file, quoted pattern, or hf:DATASET.")
]
Output = Annotated[Path, typer.Option(parser=parse_shards_output, help="Output folder.")]
Source = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[=TEXT]",
        help="Name of the source [default: from the recipe, or text]; with its text, once for each "
        "of several sources, instead of --input.",
    ),
]
SourcesIn = Annotated[
    Path | None,
    typer.Option(
        parser=parse_path,
        help="Folder with one folder of text for each source of the recipe, instead of --input.",
    ),
]
Recipe = Annotated[
    str | None, typer.Option(help="Recipe to take contexts, vocabulary and tokenizer from.")
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        parser=parse_path,
        help="SentencePiece model or Hugging Face folder [default: the one in the output "
        "folder, else train one].",
    ),
]
VocabularySize = Annotated[
    int | None,
    typer.Option(
        "--vocab-size",
        help="Vocabulary size of a trained tokenizer [default: from the recipe, or 32768].",
    ),
]
TokenizerSampleBytes = Annotated[
    Any,
    _quantity("--tokenizer-sample", unit="BYTES", help="Text that the tokenizer is trained on."),
]
TokenizerTemperature = Annotated[
    float, typer.Option(help="Exponent of language sizes in that sample.")
]
Workers = Annotated[int | None, typer.Option(help="Local processes [default: number of cores].")]
Language = Annotated[
    str | None, typer.Option(help="Language of the whole input, such as swh_Latn or sw.")
]
LanguageColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--language-column",
        help="Column with the language, or two with code and script [default: language "
        "and language_script].",
    ),
]
LanguageMapFile = Annotated[
    Path | None,
    typer.Option(
        "--language-map",
        parser=parse_path,
        help="File with the languages of folders, files and values of columns: 'no: nob_Latn'.",
    ),
]
TextColumn = Annotated[str, typer.Option(help="Column or key of the text.")]
TextUnit = Annotated[
    str, typer.Option(help="What a document is in .txt files: block, line or file.")
]
Encoding = Annotated[
    str,
    typer.Option(
        help="Encoding of .txt, .jsonl, .json, .csv and .tsv files without a byte order mark, such "
        "as cp1252."
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        help="Character between columns of .csv and .tsv files, or tab [default: by the header]."
    ),
]
Quotes = Annotated[
    bool,
    typer.Option(
        "--quotes/--no-quotes",
        help="Whether quotation marks enclose columns of .csv and .tsv files.",
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITION",
        help="Take only rows whose columns fulfill this, such as 'language_score >= 0.8'; several "
        "must all hold.",
    ),
]
HeldoutShare = Annotated[
    float,
    typer.Option(
        "--heldout-fraction",
        help="Fraction of documents held out, chosen by content hash; raise it if languages "
        "are small.",
    ),
]
MinimumCharacters = Annotated[int, typer.Option(help="Reject shorter documents.")]
MaximumBytes = Annotated[Any, _quantity(unit="BYTES", help="Reject longer documents.")]
Deduplicate = Annotated[bool, typer.Option(help="Drop exact duplicates within a language.")]
NearDuplicates = Annotated[
    float | None,
    typer.Option(
        metavar="SIMILARITY",
        help="Drop documents that are this similar to an earlier one of their language, 0.5 to 1: "
        "the Jaccard similarity of their 9-character sequences [default: none].",
    ),
]
NearDuplicatePermutations = Annotated[
    int, typer.Option(help="Values of a document's MinHash signature, 32 to 1024.")
]
NearDuplicateMemory = Annotated[
    Any, _quantity(unit="BYTES", help="Memory of a worker for the comparison; less takes longer.")
]
RemoveControlCharacters = Annotated[
    bool,
    typer.Option(
        "--remove-control-characters/--keep-control-characters",
        help="All except tab, line feed and carriage return.",
    ),
]
Normalization = Annotated[
    str | None, typer.Option(help="Unicode normalization, NFC or NFKC [default: none].")
]
Decontaminate = Annotated[
    list[Path] | None,
    typer.Option(
        parser=parse_path, help="Drop documents that share an n-gram of words with this file."
    ),
]
DecontaminateNgram = Annotated[int, typer.Option(help="Words per n-gram of --decontaminate.")]
MaximumTokensPerLanguage = Annotated[
    Any,
    _quantity(
        "--maximum-tokens",
        unit="TOKENS",
        help="Maximum training tokens per language, chosen by content hash.",
    ),
]
MaximumUnreadFraction = Annotated[
    float, typer.Option(help="Stop if a larger fraction of the input's bytes cannot be read.")
]
MaximumRejectedFraction = Annotated[
    float, typer.Option(help="Stop if a larger fraction of the documents is damaged.")
]
MaximumWithoutLanguageFraction = Annotated[
    float,
    typer.Option(help="Stop if a larger fraction of documents or bytes has no language."),
]
Contexts = Annotated[
    list[int] | None,
    typer.Option(
        "--context", help="Context lengths to index [default: from the recipe, or 1024, 8192]."
    ),
]
ShardTokens = Annotated[Any, _quantity(unit="TOKENS", help="Approximate tokens per shard.")]
UnitBytes = Annotated[
    Any,
    _quantity(unit="BYTES", help="Input per work unit [default: from the size of the input]."),
]
FastEncoder = Annotated[
    str,
    typer.Option(
        help="Encoder used instead of SentencePiece where it was verified to give the same "
        "ids: auto, none or kitoken."
    ),
]
Replace = Annotated[bool, typer.Option("--replace", help="Remake a finished source.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the input files, and stop.")]
