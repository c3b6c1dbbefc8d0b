"""The rows of the tables: which figures are shown, and under what name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A figure in the table: its name, the measure that takes it, and which way is better."""

    figure: str
    measure: str
    title: str
    unit: str
    more_is_better: bool = False


ROWS = (
    Row("round_trip_p50_ms", "round_trip", "round trip p50", "ms"),
    Row("round_trip_p95_ms", "round_trip", "round trip p95", "ms"),
    Row("round_trip_p99_ms", "round_trip", "round trip p99", "ms"),
    Row("no_ops_per_s", "no_ops", "no-ops, 5 000 at once", "/s", more_is_better=True),
    Row("small_per_s", "small_data", "10 KB in and out, 2 000 calls", "/s", more_is_better=True),
    Row("large_first_per_s", "large_data", "1 MB in and out, the first 50 calls", "/s", more_is_better=True),
    Row("large_per_s", "large_data", "1 MB in and out, 150 more", "/s", more_is_better=True),
    Row("cold_start_s", "cold_start", "cold start to first result", "s"),
    Row("memory_rest_mb", "memory", "memory at rest (PSS, with client)", "MB"),
    Row("memory_work_mb", "memory", "memory after the work", "MB"),
)
"""What all systems are measured by."""

PROVIDER_ROWS = (
    Row("provider_run_1_p50_ms", "provider", "run → SUCCEEDED, 1 connection, p50", "ms"),
    Row("provider_run_1_p99_ms", "provider", "run → SUCCEEDED, 1 connection, p99", "ms"),
    Row("provider_runs_1_per_s", "provider", "runs, 1 connection", "/s", more_is_better=True),
    Row("provider_runs_50_per_s", "provider", "runs, 50 connections", "/s", more_is_better=True),
    Row("provider_run_50_p99_ms", "provider", "run → SUCCEEDED, 50 connections, p99", "ms"),
    Row("provider_run_50_cpu_us", "provider", "processor time of a run, 50 connections", "µs"),
    Row("provider_statuses_1_per_s", "provider", "status, 1 connection", "/s", more_is_better=True),
    Row("provider_statuses_50_per_s", "provider", "status, 50 connections", "/s", more_is_better=True),
    Row("provider_status_50_p99_ms", "provider", "status, 50 connections, p99", "ms"),
    Row("provider_status_50_cpu_us", "provider", "processor time of a status, 50 connections", "µs"),
)
"""What systems with an action provider are measured by."""

DOOR_ROWS = (
    Row("action_p50_ms", "action", "action: run → SUCCEEDED p50", "ms"),
    Row("action_p95_ms", "action", "action: run → SUCCEEDED p95", "ms"),
    Row("action_p99_ms", "action", "action: run → SUCCEEDED p99", "ms"),
    Row("action_at_once_percent", "action", "actions that `run` answers as SUCCEEDED", "%", more_is_better=True),
    Row("single_alone_p50_ms", "sharing", "single task on a shared endpoint, alone, p50", "ms"),
    Row("single_shared_p50_ms", "sharing", "single task beside 100 000 of another user, p50", "ms"),
    Row("single_shared_p95_ms", "sharing", "single task beside 100 000 of another user, p95", "ms"),
)
"""What only Headrace has."""


def _rows_of_subscriptions(count: str, shown: str) -> tuple[Row, ...]:
    title, what = "service's processor time of", "subscriptions"
    return (
        Row(f"event_started_{count}_p50_ms", what, f"stored → function runs p50, {shown}", "ms"),
        Row(f"event_started_{count}_p99_ms", what, f"stored → function runs p99, {shown}", "ms"),
        Row(f"event_unmatched_{count}_service_us", what, f"{title} an event that fits none, {shown}", "µs"),
        Row(f"delivery_{count}_service_us", what, f"{title} a delivery, {shown}", "µs"),
    )


EVENT_ROWS = (
    Row("event_accepted_p50_ms", "event", "event: POST → stored p50", "ms"),
    Row("event_start_p50_ms", "event", "event: POST → function runs p50", "ms"),
    Row("event_start_p95_ms", "event", "event: POST → function runs p95", "ms"),
    Row("event_start_p99_ms", "event", "event: POST → function runs p99", "ms"),
    Row("event_stored_start_p50_ms", "event", "event: stored → function runs p50", "ms"),
    Row("event_result_p50_ms", "event", "event: POST → result p50", "ms"),
    Row("event_result_p95_ms", "event", "event: POST → result p95", "ms"),
    Row("event_batched_per_s", "publishing", "events published by the SDK in batches", "/s", more_is_better=True),
    Row("event_batched_cpu_us", "publishing", "processor time of each", "µs"),
    Row(
        "event_single_per_s",
        "publishing",
        "events published by the SDK one by one, 32 threads",
        "/s",
        more_is_better=True,
    ),
    Row("event_single_cpu_us", "publishing", "processor time of each", "µs"),
    Row("event_http_per_s", "publishing", "events published over HTTP, 32 connections", "/s", more_is_better=True),
    Row("event_http_p50_ms", "publishing", "acknowledged then, p50", "ms"),
    Row("event_http_cpu_us", "publishing", "processor time of each", "µs"),
    Row("delivery_per_s", "deliveries", "deliveries to a no-op", "/s", more_is_better=True),
    Row("delivery_cpu_us", "deliveries", "processor time of each, from publishing on", "µs"),
    Row("subscription_created_per_s", "subscriptions", "subscriptions made, 32 connections", "/s", more_is_better=True),
    *_rows_of_subscriptions("1", "1 subscription"),
    *_rows_of_subscriptions("1000", "1 000"),
    *_rows_of_subscriptions("10000", "10 000"),
    Row("dispatcher_start_s", "subscriptions", "a dispatcher's start with 10 000 subscriptions", "s"),
    Row("dispatcher_start_cpu_s", "subscriptions", "processor time of it", "s"),
    Row("dispatcher_rss_mb", "subscriptions", "a dispatcher's memory with 10 000 subscriptions (RSS)", "MB"),
)
"""Events: what only Headrace has."""

FILTER_ROWS = (
    Row("patterns_median_per_s", "filters", "simple patterns, the median of them", "/s", more_is_better=True),
    Row("patterns_least_per_s", "filters", "simple patterns, the slowest of them", "/s", more_is_better=True),
    Row("cesql_per_s", "filters", "a simple expression of CESQL", "/s", more_is_better=True),
    Row("pattern_slowest_ms", "filters", "the slowest pattern on an event of 1 KB", "ms"),
)
"""Filters: without any system."""
