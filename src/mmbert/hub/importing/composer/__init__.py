"""Import of MosaicML Composer checkpoints, in which ModernBERT's trainer publishes its states.

- `import_checkpoint`: the import itself, and its report.
- `reading`: the file, without running any code that it names.
- `weights`: parameters by their names in Hugging Face.
- `configuration`: FlexBERT's configuration.
- `tokenizer_files`: the tokenizer in the file.
- `optimizer`: StableAdamW's moments and settings.
- `progress`: tokens and batches so far.
"""
