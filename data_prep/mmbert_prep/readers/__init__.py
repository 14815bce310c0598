"""Readers: files of many formats -> a stream of documents, each with its text or its problem."""

from mmbert_prep.readers.dispatch import plan_segments, read_segment
from mmbert_prep.readers.documents import DAMAGE_REASONS, Document, Segment

__all__ = ["DAMAGE_REASONS", "Document", "Segment", "plan_segments", "read_segment"]
