"""Models in and out: Hugging Face export and import, merging, fillings of masks."""
