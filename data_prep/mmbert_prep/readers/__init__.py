"""Readers: files of many formats -> a stream of documents, each with its text or its problem."""

from mmbert_prep.readers.documents import DAMAGE_REASONS, Document, Segment
from mmbert_prep.readers.registry import plan_segments, read_segment

__all__ = ["DAMAGE_REASONS", "Document", "Segment", "plan_segments", "read_segment"]
