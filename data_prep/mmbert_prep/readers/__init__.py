"""Readers: input files of any format to a stream of documents.

- `discovery`: the input files, with format, compression and language.
- `registry`: the list of formats; divides a file into ranges and reads a range.
- `file_format`, `formats`: the interface of a format, and one module per format.
- `documents`, `rejection`: documents, file ranges, and reasons for rejecting a document.
- `accounting`: the input bytes of a range that were read, and those that were lost.
- `layout`: splits, saved datasets, and kinds of files that are not read.
- `text_blocks`: UTF-8 from files in any encoding.
- `where`: conditions on the columns beside the text (`--where`).
- `row_documents`: documents of rows, by their language columns and `--where`.
- `streams`, `line_ranges`: decompression, lines of bounded length, division at line ends.
- `path_language`, `language_columns`: language keys such as `swh_Latn`, of files and of rows.
"""

from mmbert_prep.readers.documents import Document, FileRange
from mmbert_prep.readers.registry import plan_ranges, read_range
from mmbert_prep.readers.rejection import Rejected, RejectReason

__all__ = [
    "Document",
    "FileRange",
    "RejectReason",
    "Rejected",
    "plan_ranges",
    "read_range",
]
