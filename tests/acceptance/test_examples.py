"""The examples run as somebody would run them, and say what they should; the demo leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from headrace_up import Up, command_line, headrace_up
from waiting import eventually

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

SAYS = {
    "submit.py": ["July 2015 had up to 35.0 °C", "No days have no maximum: "],
    "map_months.py": ["2013-01 was the coldest of 48 months: 6.1 °C", "2015-12 was the wettest: 9.2 mm a day"],
    "source_code.py": ["August 2014: 26.4 ± 3.9 °C"],
    "action.py": ["provider: Headrace Compute", "SUCCEEDED: ", "210.5"],
    "function_provider.py": [
        "summarise: amounts, how, digits",
        "422: Field '$.amounts' (category: 'type')",
        "SUCCEEDED: {'mean': 7.02, 'days': 30}",
    ],
    "flow.py": ["ActionCompleted         Wettest", "'Seattle, 2015-12: day ", "once is enough"],
    "wait_for_event.py": ["ACTIVE: Waits for an event", "SUCCEEDED: 1 event came, the data are in /data/42"],
    "webhook.py": ["GitHub was told that it is stored: number ", "on main somebody changed data/may.csv, model.py"],
    "file_to_result.py": ["2012-01.csv: 31 days, the warmest was 2012-01-01 with 12.8 °C", "2012-03.csv: 31 days"],
    "on_event.py": ["published as number ", "the wettest day of 2012-01 was day 29, with 27.7 mm"],
}
NOT_RUN_ALONE = (
    {"instrument.py"}
    | {"demo.py", "demo_action.py", "demo_functions.py", "demo_output.py"}
    | {
        "local_headrace.py",
        "weather.py",
        "weather_report.py",
    }
)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with headrace_up(tmp_path_factory.mktemp("examples") / "home", "--workers", "2") as running:
        yield running


def without_headrace() -> dict[str, str]:
    """An environment that names no service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}


def test_every_example_is_known_here() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == SAYS.keys() | NOT_RUN_ALONE


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_and_says_what_it_found(name: str, up: Up) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env={**without_headrace(), **up.environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for text in SAYS[name]:
        assert text in done.stdout


def test_an_example_finds_the_service_by_the_home_of_headrace_up(up: Up) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "submit.py")],
        env={**without_headrace(), "HEADRACE_HOME": str(up.home)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert "35.0 °C" in done.stdout, done.stderr


def test_the_demo_goes_through_all_three_doors_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py")],
        env={**without_headrace(), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for text in ("25.9 ± 4.2", "2015-03-15: FOG", "17.4 ± 7.3", "status, afterwards", "284.5 on 25", "To try next"):
        assert text in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert processes_with(str(tmp_path)) == []


def test_a_demo_that_fails_says_why_and_shows_the_logs(tmp_path: Path) -> None:
    # A numpy that cannot be imported: its results cannot be read where the demo runs.
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "numpy.py").write_text("raise ModuleNotFoundError('no numpy here', name='numpy')\n")
    (tmp_path / "tmp").mkdir()

    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py")],
        env={**without_headrace(), "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )

    assert done.returncode == 1
    assert "--- logs/service.log" in done.stdout
    assert "The demo failed: " in done.stdout
    assert "numpy" in done.stdout.splitlines()[-1]
    assert done.stderr == ""
    assert list((tmp_path / "tmp").iterdir()) == []
    assert processes_with(str(tmp_path)) == []


def test_an_interrupted_demo_stops_what_it_started(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "demo.py")],
        env={**without_headrace(), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: processes_with(f"{tmp_path}/headrace-demo"), 20, "headrace up is started")

        demo.send_signal(signal.SIGTERM)

        assert demo.wait(25) == 130
    finally:
        demo.kill()
        demo.wait()
    assert list(tmp_path.iterdir()) == []
    eventually(lambda: not processes_with(str(tmp_path)), 5, "everything is stopped")


def processes_with(words: str) -> list[str]:
    """The command lines of all processes that hold these words."""
    lines = [command_line(int(entry.name)) for entry in Path("/proc").glob("[0-9]*")]
    return [line for line in lines if words in line]
