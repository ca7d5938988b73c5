"""The ``openvla-ros`` command: one verb, one module in this package (``import_`` for a word that Python reserves).

A verb module has ``HELP``, ``add_arguments(parser)`` and ``run(args) -> exit status``. It imports what is heavy or
needs ROS inside ``run``, so that ``openvla-ros --help`` works and is quick everywhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

import openvla_ros.cli
from openvla_ros import __version__
from openvla_ros.errors import OpenVLAError

VERBS = sorted(m.name for m in iter_modules(openvla_ros.cli.__path__) if m.name != "main" and m.name[0] != "_")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="openvla-ros", description="Run OpenVLA on an arm with ROS 2.")
    parser.add_argument("--version", action="version", version=f"openvla_ros {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        module = import_module(f"openvla_ros.cli.{name}")
        verb = verbs.add_parser(name.rstrip("_").replace("_", "-"), help=module.HELP, description=module.__doc__)
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except OpenVLAError as error:
        print(f"openvla-ros {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
