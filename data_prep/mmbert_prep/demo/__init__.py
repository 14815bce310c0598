"""The demo's corpus, written on the spot: `python -m mmbert_prep.demo.corpus FOLDER`."""
