"""A run in a terminal: the table of steps, and Enter for an action that waits for somebody."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

from scripted_http import scripted_server
from waiting import eventually

ACTIVE = {"action_id": "a-1", "status": "ACTIVE", "details": {}, "display_status": "half [done]"}
CONSENT = {
    **ACTIVE,
    "status": "INACTIVE",
    "details": {"code": "ConsentRequired", "description": "give your consent", "required_scope": "urn:scope:x"},
}
DONE = {**ACTIVE, "status": "SUCCEEDED"}


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *words: str, **environment: str) -> None:
        self._file, inside = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "headrace.cli.main", *words],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        os.close(inside)
        self.shown = ""

    def shows(self, words: str) -> bool:
        """Whether these words have been shown by now."""
        while select.select([self._file], [], [], 0)[0]:
            try:
                self.shown += os.read(self._file, 65536).decode()
            except OSError:  # it has ended
                break
        return words in self.shown

    def type(self, text: str) -> None:
        os.write(self._file, text.encode())

    def end(self) -> int:
        """Wait for its end; its status."""
        status = self._process.wait(15)
        self.shows("")
        os.close(self._file)
        return status


def test_a_terminal_shows_the_steps_and_enter_resumes_an_action(tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    with scripted_server((202, CONSENT), *[(200, CONSENT)] * 2, (200, ACTIVE), (200, DONE)) as server:
        action = {"Type": "Action", "ActionUrl": server.url, "Parameters": {}, "ResultPath": "$.A", "Next": "End [x]"}
        states = {"A": action, "End [x]": {"Type": "Pass", "End": True}}
        (tmp_path / "flow.json").write_text(json.dumps({"StartAt": "A", "States": states}))
        terminal = Terminal(
            *("flow", "run", str(tmp_path / "flow.json"), "--log", str(log), "--token", f"{server.url}=TOKEN"),
            TOKEN="t-1",
            HEADRACE_HOME=str(tmp_path / "home"),
            TERM="xterm",
            COLUMNS="120",
        )
        eventually(lambda: terminal.shows("Press Enter once this is done"), 15, "the terminal asks")
        terminal.type("\n")
        eventually(lambda: "POST /a-1/resume" in server.asked, 10, "the action is resumed")
        status = terminal.end()

    assert status == 0, terminal.shown
    assert "give your consent; consent to urn:scope:x" in terminal.shown
    # What providers and authors write is text, and no markup.
    assert "End [x]" in terminal.shown
    assert '"half [done]"' in terminal.shown
    assert "✓" in terminal.shown
