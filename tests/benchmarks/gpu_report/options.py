"""Command line options shared by all parts of the report."""

import argparse
import os
from pathlib import Path

import torch

from tests.benchmarks.gpu_report.verification import FOLDER_VARIABLE


def part_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the shared options."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--device",
        choices=["cuda", "cpu"],
        default="cuda",
        help="cpu: tiny sizes, to try the program; its figures say nothing about a GPU",
    )
    folder = os.environ.get(FOLDER_VARIABLE)
    parser.add_argument(
        "--report",
        type=Path,
        default=Path(folder) if folder else None,
        help=f"the report's folder (default: ${FOLDER_VARIABLE}); without it figures are printed",
    )
    return parser


def device_of(arguments: argparse.Namespace) -> torch.device:
    """Return the requested device; SystemExit(2) if there is no GPU."""
    if arguments.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        print("There is no GPU here: nothing has been measured on one.")
        raise SystemExit(2)
    return torch.device("cuda", 0)
