"""Demo corpus of generated text: `python -m mmbert_prep.demo.corpus FOLDER`.

- `corpus`: languages, tiers and files.
- `text`: documents in one language.
"""
