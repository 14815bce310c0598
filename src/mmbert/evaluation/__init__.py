"""Evaluation of trained models.

- `loaded_model`: a checkpoint or Hugging Face folder, ready for inference.
- `masked_loss`: held-out loss per language.
- `loss_report`: its table and TSV file.
- `retrieval`: cross-lingual sentence retrieval.
- `classification`: fine-tuning and accuracy.
- `tsv`: reader of the input files.
"""
