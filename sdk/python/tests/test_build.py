"""From a module to a component."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import unittest
from pathlib import Path

from millrace_sdk.build import WIT

SDK = Path(__file__).parent.parent
HAS_TOOL = (Path(sysconfig.get_path("scripts")) / "componentize-py").exists() or shutil.which("componentize-py") is not None


class Build(unittest.TestCase):
    def setUp(self) -> None:
        work = tempfile.TemporaryDirectory()
        self.addCleanup(work.cleanup)
        self.work = Path(work.name)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "millrace_sdk", *arguments]
        # The SDK that this process has, installed or not.
        environment = {**os.environ, "PYTHONPATH": str(WIT.parent.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True)

    def module(self, name: str, text: str) -> str:
        (self.work / name).write_text(text)
        return name

    def test_the_boundary_is_the_repositorys(self) -> None:
        theirs = SDK.parent / "wit" / "transform.wit"
        if not theirs.exists():
            self.skipTest("not within the repository")
        ours = WIT / "transform.wit"
        self.assertEqual(ours.read_text(), theirs.read_text(), f"copy {theirs} to {ours}")

    def test_what_can_not_be_built_is_refused(self) -> None:
        def refused(name: str, pattern: str) -> None:
            result = self.command("build", name, "-o", "refused.wasm")
            self.assertNotEqual(result.returncode, 0)
            self.assertRegex(result.stderr, pattern)
            self.assertFalse((self.work / "refused.wasm").exists())

        refused("missing.py", "there is no missing.py")
        refused(self.module("not-a-module.py", ""), "the file must be named like a module")
        refused(self.module("empty.py", "a = 1"), r"empty.py must have one plugin, a function under @plugin\(…\): there is none")
        refused(self.module("broken.py", "def"), "SyntaxError")
        one = "from millrace_sdk import Event, plugin\n@plugin(name='a', version='1.0.0')\ndef {}(event: Event): ...\n"
        refused(self.module("two.py", one.format("a") + one.format("b")), "two.py must have one plugin, .*: there is a, b")
        self.assertIn("usage: millrace-py", self.command("build").stderr)

    @unittest.skipUnless(HAS_TOOL, "componentize-py is not installed")
    def test_a_module_and_what_it_imports_become_a_component(self) -> None:
        self.module("words.py", "WORDS = ('a', 'b')\n")
        name = self.module(
            "my_plugin.py",
            "from millrace_sdk import Event, Result, Writes, plugin\nfrom words import WORDS\n"
            "class Visit(Event):\n    event: Writes[str]\n"
            "@plugin(name='first', version='1.0.0')\n"
            "def first(event: Visit) -> Result:\n    event.event = event.event and WORDS[0]\n    return None\n",
        )
        result = self.command("build", name, "-o", "out.wasm")
        self.assertEqual(result.stderr, "")
        self.assertRegex(result.stdout, r"^out\.wasm: \d+ bytes\n$")
        self.assertEqual((self.work / "out.wasm").read_bytes()[:8], b"\0asm\x0d\0\x01\0")
        cases = self.work / "cases"
        cases.mkdir()
        (cases / "a.json").write_text('{"rows_in": [{"event": "x"}, {}], "expect": [{"keep": [{"event": "a"}]}, {"keep": [{}]}]}')
        held = self.command("test", name, "--cases", "cases")
        self.assertEqual((held.stdout, held.stderr), ("1 cases hold\n", ""))
        (cases / "a.json").write_text('{"rows_in": [{"event": "x"}], "expect": [{"keep": [{"event": "b"}]}]}')
        failed = self.command("test", name, "--cases", "cases")
        self.assertEqual(failed.returncode, 1)
        self.assertIn('row 0:\n  expected {"keep": [{"event": "b"}]}\n  came out', failed.stderr)


if __name__ == "__main__":
    unittest.main()
