"""Readers: files of many formats -> a stream of documents, each with its text or its problem."""

from mmbert_prep.readers.documents import DAMAGE_REASONS, Document, FileRange
from mmbert_prep.readers.registry import plan_ranges, read_range

__all__ = ["DAMAGE_REASONS", "Document", "FileRange", "plan_ranges", "read_range"]
