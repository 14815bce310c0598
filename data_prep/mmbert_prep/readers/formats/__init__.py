"""Input formats: each module declares one `FileFormat`, listed in `readers/registry`.

- `jsonl`, `json_values`: JSON lines and arrays. `text`: plain text. `table`: CSV and TSV.
- `parquet`, `arrow`, `record_batches`: Parquet and Arrow files with a text column.
- `mds`, `megatron`: MosaicML shards and Megatron pairs, usually of token ids.
- `hub_dataset`: datasets of the Hugging Face hub, streamed.
"""
