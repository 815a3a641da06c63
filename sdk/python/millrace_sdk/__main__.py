"""The command: builds components and runs golden cases."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .build import WIT, BuildError, build, load, plugin_of
from .testing import CasesError, check_cases


def main() -> int:
    parser = argparse.ArgumentParser(prog="millrace-py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="make a component of a module with a plugin")
    building.add_argument("module", type=Path)
    building.add_argument("-o", "--output", type=Path, default=Path("plugin.wasm"))
    building.add_argument("-p", "--path", type=Path, action="append", default=[], help="where modules are found too")
    building.add_argument("--wit", type=Path, default=WIT, help="another version of the boundary")
    testing = commands.add_parser("test", help="run golden cases over a module natively")
    testing.add_argument("module", type=Path)
    testing.add_argument("--cases", type=Path, required=True)
    testing.add_argument("--bless", action="store_true", help="write down what came out instead")
    arguments = parser.parse_args()
    try:
        if arguments.command == "build":
            size = build(arguments.module, arguments.output, arguments.wit, arguments.path)
            print(f"{arguments.output}: {size} bytes")
        else:
            _, plugin = plugin_of(arguments.module, load(arguments.module))
            count = check_cases(plugin, arguments.cases, bless=arguments.bless)
            print(f"{count} cases {'written' if arguments.bless else 'hold'}")
    except (BuildError, CasesError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
