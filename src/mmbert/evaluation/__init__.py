"""What a trained model is worth: held-out loss, cross-lingual retrieval, fine-tuning."""
