"""Command line of `python3 -m mmbert.wheels`: `collect` and `install`.

Uses argparse instead of Typer, as it runs on a bare interpreter.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from mmbert.command_line.streams import prepare_streams
from mmbert.errors import EXIT_USER_ERROR, ArgumentError, UserError
from mmbert.wheels.collecting import collect
from mmbert.wheels.installed import read_list
from mmbert.wheels.installing import install
from mmbert.wheels.required import ROOT, required
from mmbert.wheels.target import parse_target

EXAMPLES = """examples:
  python3 -m mmbert.wheels collect wheels --python-version 3.12 --missing-from pip-list.txt
  /opt/torch/bin/python3 -m mmbert.wheels install wheels
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 2 for a UserError, 130 if interrupted."""
    prepare_streams()
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; repeat the command to continue", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Parser whose errors read like the others of this program."""

    def error(self, message: str) -> NoReturn:
        """Raise ArgumentError instead of printing the usage and exiting."""
        raise ArgumentError(message, remedy=f"see {self.prog} --help")


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty; is a variable of the shell unset?")
    return Path(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python3 -m mmbert.wheels",
        description="Collect and install the requirements of setup.py without a network.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="collect|install")
    collecting = commands.add_parser("collect", help="download missing wheels into a folder")
    collecting.add_argument(
        "--python-version", metavar="3.12", help="of the target machine (default: this one's)"
    )
    collecting.add_argument("--platform", default="manylinux_2_28_x86_64")
    collecting.add_argument(
        "--missing-from",
        type=_folder,
        metavar="FILE",
        help="saved output of `pip list` on the target machine",
    )
    collecting.set_defaults(run=_collect)
    installing = commands.add_parser("install", help="install missing packages from the folder")
    installing.set_defaults(run=_install)
    for command in (collecting, installing):
        command.add_argument("folder", type=_folder)
        command.add_argument("--extras", default="", help="extras of setup.py, comma-separated")
        command.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    installing.add_argument("--build", action="store_true", help="also install build requirements")
    return parser


def _collect(options: argparse.Namespace) -> None:
    target = parse_target(options.python_version or None, options.platform)
    present = read_list(options.missing_from) if options.missing_from else {}
    wanted = required(_extras(options), build=True, root=options.root)
    collect(options.folder, wanted, target, present)


def _install(options: argparse.Namespace) -> None:
    install(options.folder, required(_extras(options), build=options.build, root=options.root))


def _extras(options: argparse.Namespace) -> tuple[str, ...]:
    return tuple(word.strip() for word in options.extras.split(",") if word.strip())


if __name__ == "__main__":
    sys.exit(main())
