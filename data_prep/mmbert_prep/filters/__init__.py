"""Filters of single documents.

- `cleaning`: control characters, Unicode normalization, length limits, held-out split.
- `decontamination`: n-grams shared with evaluation files.
- `signatures`: MinHash signatures, from which near-duplicates are found.

Duplicates and token caps need all documents of a language: see `shards/deduplicate_and_split`.
"""
