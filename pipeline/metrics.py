"""Every metric of the package; ``docs/operations.md`` explains them to operators.

Labels are bounded: operations, queues, outcomes and causes, never task ids.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from pipeline.loop_metrics import LoopCounter, LoopHistogram

CALLBACKS = LoopCounter(
    "pipeline_callbacks_total",
    "Callbacks answered by the ingress, by HTTP status and operation.",
    ("operation", "status"),
)
CALLBACK_SECONDS = LoopHistogram(
    "pipeline_callback_seconds",
    "From the headers of a callback to its answer of 200.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
REFUSALS = Counter(
    "pipeline_refusals_total",
    "Callbacks refused by the ingress, by cause.",
    ("cause",),
)
DELIVERIES = Counter(
    "pipeline_deliveries_total",
    "Deliveries settled by a worker, by queue and outcome.",
    ("queue", "outcome"),
)
DELIVERY_SECONDS = Histogram(
    "pipeline_delivery_seconds",
    "From receiving a delivery to settling it.",
    ("queue",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
WORKER_PAUSED = Counter(
    "pipeline_worker_pauses_total",
    "Times a worker waited because the ledger or the broker was unavailable.",
    ("queue",),
)
UPDATES = Counter(
    "pipeline_updates_total",
    "Callbacks read by dedupe, by stage and verdict (new, late, duplicate).",
    ("stage", "verdict"),
)
CONFIRMATIONS = Counter(
    "pipeline_confirmations_total",
    "Callbacks about which the provider was asked, by what it said.",
    ("outcome",),
)
SUBMISSIONS = Counter(
    "pipeline_submissions_total",
    "Tasks submitted to the provider, by what came of it.",
    ("operation", "outcome"),
)
QUESTIONS = Counter(
    "pipeline_questions_total",
    "Questions of the poller to the provider, by operation and what they brought.",
    ("operation", "outcome"),
)
RECOVERED = Counter(
    "pipeline_recovered_total",
    "Tasks whose end was heard of by asking only, by operation.",
    ("operation",),
)
GIVEN_UP = Counter(
    "pipeline_given_up_total",
    "Tasks that the poller asks for no more, though they have not ended.",
    ("operation",),
)
EXPECTATIONS = Gauge(
    "pipeline_expectations", "Tasks that are still to end, as the ledger has them."
)
EXPECTATIONS_OVERDUE = Gauge(
    "pipeline_expectations_overdue",
    "Tasks that should have been asked for long ago.",
)
POLLER_LATE_SECONDS = Gauge(
    "pipeline_poller_late_seconds",
    "How long the question that is due first has waited.",
)
ASSETS = Counter(
    "pipeline_assets_total",
    "Files settled by download, by kind and outcome (stored, expired).",
    ("kind", "outcome"),
)
ASSET_BYTES = Counter("pipeline_asset_bytes_total", "Bytes of files stored.")
LINKS_RENEWED = Counter(
    "pipeline_links_renewed_total",
    "Links that took the place of dead ones, by where they came from.",
    ("source",),
)
UNFETCHED_LINKS = Gauge(
    "pipeline_unfetched_links",
    "Links of files still to be fetched, by the share of their lifetime that is over.",
    ("spent_percent",),
)
NOTIFICATIONS = Counter(
    "pipeline_notifications_total",
    "Requests to subscribers, by subscription and outcome.",
    ("subscription", "outcome"),
)
SUBSCRIPTION_DISABLED = Gauge(
    "pipeline_subscription_disabled",
    "1 while nothing is sent to a subscriber that has answered 410.",
    ("subscription",),
)
SPOOLED = Counter(
    "pipeline_spooled_total",
    "Callbacks put into the outage spool, by what the broker did.",
    ("cause",),
)
SPOOL_REFUSALS = Counter(
    "pipeline_spool_refusals_total",
    "Callbacks that the outage spool did not take, by cause.",
    ("cause",),
)
FORWARDED = Counter(
    "pipeline_forwarded_total",
    "Callbacks brought from the outage spool to the broker.",
)
SPOOL_MESSAGES = Gauge(
    "pipeline_spool_messages", "Callbacks that wait in the outage spool."
)
SPOOL_BYTES = Gauge("pipeline_spool_bytes", "What the outage spool takes on the disk.")
SPOOL_OLDEST_SECONDS = Gauge(
    "pipeline_spool_oldest_seconds",
    "How long the oldest callback has waited in the outage spool.",
)
CIRCUIT_OPEN = Gauge(
    "pipeline_circuit_open",
    "1 while callbacks go to the outage spool without asking the broker.",
)
BROKER_CONNECTED = Gauge(
    "pipeline_broker_connected",
    "1 while this process is connected to the broker.",
)
BROKER_RECONNECTS = Counter(
    "pipeline_broker_reconnects_total", "Connections to the broker that were lost."
)
