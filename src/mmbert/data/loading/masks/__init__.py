"""Choice of masked tokens beyond single ones at one ratio.

- `runs`: whole words and spans.
- `document_counts`: ratios of documents.
"""
