"""Import of Hugging Face models and Composer checkpoints as starting points for training.

- `import_model`: the import itself.
- `vocabulary`: embeddings for another tokenizer.
- `striding`: a smaller model by strided sampling.
- `composer`: training states of ModernBERT's trainer.
"""
