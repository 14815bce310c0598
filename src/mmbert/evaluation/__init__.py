"""Evaluation of trained models.

- `loaded_model`: checkpoint or Hugging Face folder loaded for inference.
- `masked_loss`: held-out loss per language.
- `loss_report`: table and TSV file of held-out losses.
- `retrieval`: cross-lingual sentence retrieval.
- `classification`: fine-tuning and accuracy.
- `tsv`: reader of TSV input files.
"""
