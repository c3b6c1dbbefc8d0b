"""The `headrace` command as a person types it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from headrace.cli.main import main


@dataclass
class Said:
    """What a command said."""

    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Shell:
    """Types commands for one home: in this process, which is quicker; only `start` gets one of its own."""

    home: Path

    def __call__(self, *words: str, status: int = 0, typed: str = "") -> Said:
        given = self._in_a_process(words, typed) if "start" in words else self._here(words, typed)
        assert given[0] == status, f"{words} gave {given[0]}:\n{given[1]}\n{given[2]}"
        assert "Traceback (most recent call last)" not in given[2]
        return Said(*given[1:])

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        return {**kept, "HEADRACE_HOME": str(self.home)}

    def _here(self, words: tuple[str, ...], typed: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self._environment(), clear=True),
            mock.patch.multiple(sys, argv=["headrace", *words], stdin=io.StringIO(typed)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main()
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
        return status, out.getvalue(), err.getvalue()

    def _in_a_process(self, words: tuple[str, ...], typed: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "headrace.cli.main", *words],
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
            input=typed,
            env=self._environment(),
        )
        return done.returncode, done.stdout, done.stderr
