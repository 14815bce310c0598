"""Preprocessing as a module: `python -m mmbert_prep`, the same program as launch/preprocess.py."""

from mmbert_prep.cli import main

if __name__ == "__main__":
    main()
