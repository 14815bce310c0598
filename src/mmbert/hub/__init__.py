"""Models in and out: Hugging Face export and import, fillings of masks."""
