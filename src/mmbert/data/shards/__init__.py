"""Shards on disk, opened through their manifests.

- `manifest`: contents and checksums of one language of one source.
- `component`: one language of one source.
- `corpus`: all manifests of a folder.
- `shard_pool`: open shards, read at many places in one call.
- `indexed_dataset`: Megatron's pairs of tokens and index.
- `continuation_index`: index of the *pieces* beyond each document's first part.
- `tokenizer_description`: special tokens and fingerprint of the corpus' tokenizer.
- `tokenizer_state`: padding, truncation and dropout that a tokenizer has saved.
- `tokenizer_function`: comparison of tokenizers by what they do.
- `data_identity`: digests of the text under a run, compared on resuming.
- `file_sizes`: comparison of the files' sizes with their manifests.
- `mapped_file`: read-only memory maps with detection of truncated files.
"""
