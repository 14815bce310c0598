"""Input formats: each module declares one `FileFormat`, listed in `readers/registry`.

- `jsonl`: JSON lines. `text`: plain text.
- `parquet`: Parquet files with a text column.
- `mds`, `megatron`: MosaicML shards and Megatron pairs, usually of token ids.
- `hub_dataset`: datasets of the Hugging Face hub, streamed.
"""
