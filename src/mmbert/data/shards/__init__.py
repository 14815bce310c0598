"""Shards on disk, opened through their manifests.

- `manifest`: what preprocessing wrote for each language.
- `corpus`: all manifests of a folder; a *component* is one language of one source.
- `indexed_dataset`: Megatron's pairs of tokens and index.
- `continuation_index`: where each *piece* begins: a document, or a part of a long one.
- `tokenizer_description`: special tokens and fingerprint of the corpus' tokenizer.
- `mapped_file`: read-only memory maps that notice a truncated file.
"""
