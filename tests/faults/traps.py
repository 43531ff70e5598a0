"""Payloads that leave a mark if anything runs them."""

from __future__ import annotations

import os
from pathlib import Path


class Trap:
    """An object whose loading runs a shell command that makes the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.mark}'",)


def run_tool(name: str, *argv: str) -> int:
    """Run a tool of tools/ in this process, as the command line would; return its exit code."""
    import runpy
    import sys
    from unittest import mock

    path = Path(__file__).resolve().parents[2] / "tools" / f"{name}.py"
    with mock.patch.object(sys, "argv", [str(path), *argv]):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as leaving:
            return int(leaving.code or 0)
    return 0
