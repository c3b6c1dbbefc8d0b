"""`make wheel-test`: build the wheel, install it with everything it needs into a fresh environment, run a function.

    python tests/packaging/install_and_run.py

This is what a user does. It takes dependencies from the package index, so it is a step of its own and no test.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import headrace.sdk, sys
assert headrace.sdk.__file__.startswith(sys.prefix), headrace.sdk.__file__
with headrace.sdk.Executor() as executor:
    assert executor.submit(pow, 2, 10).result(30) == 1024
"""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say what is done and how long it took."""
    began = time.monotonic()
    yield
    print(f"{name:<42}{time.monotonic() - began:6.1f} s", flush=True)  # noqa: T201 - this is a script


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed; what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "PYTHON"))}
    done = subprocess.run([*command], cwd=cwd, env=kept, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} gave {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def headrace_up(bin_: Path, place: Path) -> Iterator[Path]:
    """`headrace up` in a home of its own; gives the home."""
    home, ready = place / "home", place / "ready.json"
    command: list[str | Path] = [bin_ / "headrace", "up", "--home", home, "--ready-file", ready]
    command += ["--port", "0", "--nats-port", "0"]
    with (place / "up.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=place, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"headrace up is not ready:\n{(place / 'up.log').read_text()}")
            time.sleep(0.05)  # a script of its own: the helpers of tests, and pytest, are not there
        yield home
        process.terminate()
        if process.wait(15):
            raise SystemExit(f"headrace up ended with {process.returncode}:\n{(place / 'up.log').read_text()}")
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Do it all in a directory that is no checkout."""
    with tempfile.TemporaryDirectory(prefix="headrace-wheel-") as directory:
        place = Path(directory).resolve()
        with step("built sdist and wheel"):
            # The sdist is made in the tree, the wheel from the sdist: both are tried.
            run(sys.executable, "-m", "build", "--outdir", place / "dist", ROOT, cwd=place)
        (wheel,) = (place / "dist").glob("*.whl")
        with step("made a fresh environment"):
            venv.create(place / "venv", with_pip=True)
        bin_ = place / "venv" / "bin"
        pip = (bin_ / "python", "-m", "pip", "--disable-pip-version-check")
        with step("installed the wheel and its dependencies"):
            run(*pip, "install", "--quiet", str(wheel), cwd=place)
        with step("checked that they fit"):
            run(*pip, "check", cwd=place)
        with step("resolved the extra [dev]"):
            run(*pip, "install", "--quiet", "--dry-run", f"{wheel}[dev]", cwd=place)
        with step("asked for its version"):
            assert run(bin_ / "headrace", "version", cwd=place) == f"headrace {wheel.name.split('-')[1]}\n"
        with step("ran a function with `headrace up`"), headrace_up(bin_, place) as home:
            run("env", f"HEADRACE_HOME={home}", bin_ / "python", "-c", PROGRAM, cwd=place)


if __name__ == "__main__":
    main()
