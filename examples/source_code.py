"""Register the text of a module, and call one function of it by its id.

Needs a service: `headrace up` on this machine, or HEADRACE_URL and HEADRACE_TOKEN.
"""

from __future__ import annotations

from pathlib import Path

from weather import read_months

from headrace.sdk import Executor


def main() -> None:
    source = Path(__file__).with_name("weather_report.py").read_text()
    august = next(month for month in read_months() if month.name == "2014-08")
    with Executor() as executor:
        function_id = executor.register_source_code(source, function_name="report")
        print(f"report is registered as {function_id}")
        future = executor.submit_to_registered_function(function_id, august.temp_max)
        print(f"August 2014: {future.result()}")


if __name__ == "__main__":
    main()
