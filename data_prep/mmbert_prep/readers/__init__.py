"""Readers: files of many formats -> a stream of documents, each with its text or its problem."""

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
