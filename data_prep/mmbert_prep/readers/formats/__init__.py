"""Input formats, one module each.

- `jsonl`, `text`: lines of JSON and plain text, also compressed.
- `parquet`: row groups with a text column.
- `mds`: MosaicML shards and Megatron pairs, mostly tokenized.
- `hub_dataset`: datasets of the Hugging Face hub, streamed.
"""
