"""The `mmbert` command as `python -m mmbert.cli`, where its script is not on PATH."""

from mmbert.cli import main

if __name__ == "__main__":
    main()
