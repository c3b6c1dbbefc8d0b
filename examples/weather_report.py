"""A module that is registered whole: its imports, constants and helpers come along. See source_code.py."""

from statistics import fmean, pstdev

UNIT = "°C"


def rounded(number: float) -> float:
    return round(number, 1)


def report(temperatures: list[float]) -> str:
    return f"{rounded(fmean(temperatures))} ± {rounded(pstdev(temperatures))} {UNIT}"
