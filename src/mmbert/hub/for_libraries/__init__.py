"""Files of a Hugging Face folder for libraries other than transformers.

- `sentence_transformers_files`: pooling and similarity, so that sentence-transformers guesses none.
"""
