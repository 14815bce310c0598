"""Kinds of files that are not read, with what makes them readable."""

from __future__ import annotations

_TEXT = "extract its text into .txt or .jsonl"
_UNPACK = "unpack it"
_REPACK = "decompress it, or use .gz, .zst, .bz2 or .xz"
_TABLE = "save it as .csv or .parquet"
_REMEDIES = {
    _TEXT: ".pdf .doc .docx .odt .rtf .epub .html .htm .xhtml .tex .warc .wet .wat",
    "extract its text into .jsonl: wikiextractor reads dumps of wikis": ".xml",
    _UNPACK: ".zip .tar .tgz .tbz2 .txz .7z .rar",
    _REPACK: ".lzma .lz4 .br .z .sz .snappy",
    _TABLE: ".xlsx .xls .ods .orc .avro .h5 .hdf5 .db .sqlite .sqlite3 .pkl .npy .npz .tfrecord",
}
_REMEDY_OF_SUFFIX = {
    suffix: remedy for remedy, suffixes in _REMEDIES.items() for suffix in suffixes.split()
}


def unread_reason(suffix: str, name: str) -> str:
    """Return the reason why files of an unknown suffix are ignored, with the remedy if any."""
    remedy = _REMEDY_OF_SUFFIX.get(suffix.lower())
    return f"unknown kind of file '{suffix or name}'" + (f" ({remedy})" if remedy else "")
