"""Call a function on an endpoint, and wait for its result.

Needs a service: `headrace up` on this machine, or HEADRACE_URL and HEADRACE_TOKEN.
"""

from __future__ import annotations

from weather import read_months

from headrace.sdk import Executor


def warmest(temperatures: list[float]) -> float:
    """The highest of some temperatures."""
    return max(temperatures)


def main() -> None:
    july = next(month for month in read_months() if month.name == "2015-07")
    with Executor() as executor:
        future = executor.submit(warmest, july.temp_max)
        print(f"July 2015 had up to {future.result()} °C (task {future.task_id})")
        try:
            executor.submit(warmest, []).result()
        except ValueError as error:  # what the function raised, as its own type
            print(f"No days have no maximum: {error}")


if __name__ == "__main__":
    main()
