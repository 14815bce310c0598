"""`python -m mmbert_prep`: preprocessing from an installed package."""

from mmbert_prep.cli import main

if __name__ == "__main__":
    main()
