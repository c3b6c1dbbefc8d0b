"""Many calls at once: in the order of their input, or as they are done.

Needs a service: `headrace up` on this machine, or HEADRACE_URL and HEADRACE_TOKEN.
"""

from __future__ import annotations

from concurrent.futures import Future, as_completed

from weather import read_months

from headrace.sdk import Executor


def mean(numbers: list[float]) -> float:
    """The mean of some numbers."""
    return sum(numbers) / len(numbers)


def main() -> None:
    months = read_months()
    with Executor() as executor:
        means = list(executor.map(mean, [month.temp_max for month in months]))
        coldest = min(range(len(months)), key=means.__getitem__)
        print(f"{months[coldest].name} was the coldest of {len(months)} months: {means[coldest]:.1f} °C")

        # A chunk of calls is one task: for very many very short calls.
        rain = list(executor.map(mean, [month.precipitation for month in months], chunksize=12))
        wettest = max(range(len(months)), key=rain.__getitem__)
        print(f"{months[wettest].name} was the wettest: {rain[wettest]:.1f} mm a day")

        futures: dict[Future[float], str] = {executor.submit(mean, month.temp_max): month.name for month in months[-3:]}
        for future in as_completed(futures):
            print(f"{futures[future]}: {future.result():.1f} °C")


if __name__ == "__main__":
    main()
