"""From a module to a component."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

from .plugin import Plugin

PACKAGE = Path(__file__).parent
WIT = PACKAGE / "wit"
"""The boundary that components are built for."""

WORLD = "transform-plugin"
_ENTRY = "millrace_component"


class BuildError(Exception):
    """Why a module does not become a component."""


def load(path: Path) -> ModuleType:
    """Loads a plugin's module natively. It can import what lies beside it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise BuildError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except FileNotFoundError:
        raise BuildError(f"there is no {path}") from None
    finally:
        sys.path.pop(0)
    return module


def plugin_of(path: Path, module: ModuleType) -> tuple[str, Plugin]:
    """The one plugin of a module, with its name there."""
    found = [(name, value) for name, value in vars(module).items() if isinstance(value, Plugin)]
    if len({id(value) for _, value in found}) != 1:
        names = ", ".join(name for name, _ in found) or "none"
        raise BuildError(f"{path} must have one plugin, a function under @plugin(…): there is {names}")
    return found[0]


def build(path: Path, output: Path, wit: Path = WIT, paths: list[Path] | None = None) -> int:
    """Builds the component of a module and what it imports; how many bytes it has. Modules are found beside the plugin's
    own and in `paths`."""
    if not path.stem.isidentifier() or path.suffix != ".py":
        raise BuildError(f"{path}: the file must be named like a module, as in my_plugin.py")
    # A plugin that does not load is told before it is a component.
    name, _ = plugin_of(path, load(path))
    tool = _tool()
    with tempfile.TemporaryDirectory() as work:
        # The SDK alone, without whatever else lies beside it where it is installed.
        ignored = shutil.ignore_patterns("__pycache__", "wit", "build.py", "testing.py", "__main__.py")
        shutil.copytree(PACKAGE, Path(work) / PACKAGE.name, ignore=ignored)
        entry = (
            f"from millrace_sdk.component import world_of\nfrom {path.stem} import {name} as plugin\n"
            "WitWorld = world_of(plugin)\n"
        )
        (Path(work) / f"{_ENTRY}.py").write_text(entry)
        command = [tool, "--quiet", "-d", str(wit), "-w", WORLD, "componentize", "--stub-wasi", _ENTRY]
        for directory in [Path(work), path.parent, *(paths or [])]:
            command += ["-p", str(directory)]
        result = subprocess.run([*command, "-o", str(output)], capture_output=True, text=True)
    if result.returncode != 0:
        # What follows is about componentize-py itself.
        why = (result.stderr or result.stdout).partition("\nStack backtrace:")[0]
        raise BuildError(f"{path}: componentize-py failed:\n{why.strip()}")
    return output.stat().st_size


def _tool() -> str:
    beside = Path(sysconfig.get_path("scripts")) / "componentize-py"
    tool = str(beside) if beside.exists() else shutil.which("componentize-py")
    if tool is None:
        raise BuildError('componentize-py is not installed: pip install "millrace-sdk[build]"')
    return tool
