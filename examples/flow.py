"""Run the flow of `flows/weather.json` from this machine: checked, with real actions, and from its log once more.

Needs a service with an endpoint: `headrace up` on this machine, or HEADRACE_URL and HEADRACE_TOKEN.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from weather import read_months

from headrace.sdk import Client
from headrace.sdk.flows import Circumstances, Entry, Flow, RunLogUnusable, RunOptions, Tokens, read_file, resume, run
from headrace.sdk.profile import Profile

FLOWS = Path(__file__).parent / "flows"


def wettest(amounts: list[float]) -> dict[str, float]:
    """The day with the most rain."""
    mm = max(amounts)
    return {"day": amounts.index(mm) + 1, "mm": mm}


def total(amounts: list[float]) -> float:
    """The rain of all days."""
    return round(sum(amounts), 1)


def tell(entry: Entry) -> None:
    """A line for each step."""
    print(f"{entry.code:24}{entry.details.get('state_name', '')}")


def main() -> None:
    """Run it."""
    profile = Profile.find()
    with Client(profile=profile) as client:
        functions = {each.__name__: str(client.register_function(each)) for each in (wettest, total)}
        endpoint = client.get_endpoints()[0]
    december = next(month for month in read_months() if month.name == "2015-12")
    flow = Flow.read(FLOWS / "weather.json")
    value = {
        "place": "Seattle",
        "month": "2015-12",
        "amounts": december.precipitation,
        "much": 250,
        "endpoint_id": endpoint["endpoint_id"],
        "functions": functions,
    }
    circumstances = Circumstances(tokens=Tokens(profile=profile), network=profile.network, tell=tell)
    # The definition names the service of `headrace up` on this machine; this may be another.
    options = RunOptions(label="weather", instead_of={"http://127.0.0.1:8742": profile.url})
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "run.jsonl"
        schema = read_file(FLOWS / "weather.schema.json")
        done = run(flow, value, log=log, input_schema=schema, options=options, circumstances=circumstances)
        assert done.status == "SUCCEEDED", done.details
        print(done.output["report"])
        try:
            resume(log, circumstances=circumstances)
        except RunLogUnusable as error:
            print(f"once is enough: {error}".replace(directory, "…"))


if __name__ == "__main__":
    main()
