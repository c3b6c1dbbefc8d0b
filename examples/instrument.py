"""An instrument, simulated: it measures the weather of a month, and writes a line for each day as it goes."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from weather import Month

_COLUMNS = ("date", "temp_max", "temp_min", "precipitation")


def measure(folder: Path, month: Month, day_s: float = 0.02) -> Path:
    """Write the file of a month, a day every `day_s` seconds; gives its path. It is open all the time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{month.name}.csv"
    # Line by line: whoever reads the file too early finds a part of it.
    with path.open("w", newline="", encoding="utf-8", buffering=1) as file:
        lines = csv.writer(file)
        lines.writerow(_COLUMNS)
        for day in month.days:
            lines.writerow([getattr(day, column) for column in _COLUMNS])
            time.sleep(day_s)
    return path
