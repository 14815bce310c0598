"""`python3 -m mmbert.wheels`: collect wheels for a machine without a network, install them there.

argparse and no typer: this runs on an interpreter that has nothing yet.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmbert.errors import EXIT_USER_ERROR, UserError
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
    """Run the command; the status is 2 where the user can mend what is wrong."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m mmbert.wheels",
        description="What setup.py requires, for a machine without a network.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="collect|install")
    collecting = commands.add_parser("collect", help="fill a folder with the wheels it lacks")
    collecting.add_argument("--python-version", metavar="3.12", help="there; as here if not given")
    collecting.add_argument("--platform", default="manylinux_2_28_x86_64")
    collecting.add_argument(
        "--missing-from", type=Path, metavar="FILE", help="that machine's `pip list`, saved"
    )
    collecting.set_defaults(run=_collect)
    installing = commands.add_parser(
        "install", help="install from the folder what this interpreter lacks"
    )
    installing.set_defaults(run=_install)
    for command in (collecting, installing):
        command.add_argument("folder", type=Path)
        command.add_argument("--extras", default="", help="of setup.py, with commas between")
        command.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    installing.add_argument("--build", action="store_true", help="what installing the tree needs")
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
