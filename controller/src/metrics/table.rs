//! Every metric with what it says, but those of services.

use super::*;

/// Every metric but those of services.
pub(super) const METRICS: [Metric; 30] = [
    Metric::counter(
        WATCH_FAILURES,
        &["resource"],
        "Watches of the Kubernetes API that failed, by resource",
    ),
    Metric::counter(
        CONFIG_RELOADS,
        &["result"],
        "Configurations read again, and whether they were applied or refused",
    ),
    Metric::counter(
        DISCOVERY_ANSWERS,
        &["source", "result"],
        "Answers of sources of discovery, and their absence, by source",
    ),
    Metric::gauge(
        DISCOVERED,
        &["state"],
        "Endpoints that DNS and Consul name: placed on a node, homeless",
    ),
    Metric::gauge(
        KUBERNETES_OBJECTS,
        &["state"],
        "Objects of the cluster: in force, refused, with a complaint",
    ),
    Metric::gauge(
        LEADS,
        &[],
        "1 while this controller leads and may act, else 0",
    ),
    Metric::counter(TAKEOVERS, &[], "Times that this controller began to lead"),
    Metric::counter(
        RELAYED,
        &["kind"],
        "What was passed on to or from the leader, by kind",
    ),
    Metric::gauge(
        RELAYED_STREAMS,
        &[],
        "Control streams passed on to the leader",
    ),
    Metric::counter(TICKS, &[], "Plans computed"),
    Metric::counter(TICKS_LATE, &[], "Ticks that began more than a period late"),
    Metric::histogram(TICK_SECONDS, &["phase"], "Time of a tick, by phase"),
    Metric::gauge(STREAMS, &[], "Control streams open"),
    Metric::counter(STREAMS_ENDED, &["cause"], "Control streams ended, by cause"),
    Metric::counter(HANDSHAKES_FAILED, &[], "TLS handshakes that failed"),
    Metric::counter(
        DEFERRED,
        &["at"],
        "Connections sent away to come again, by where there were too many",
    ),
    Metric::counter(ENROLMENTS, &["result"], "Certificate requests, by result"),
    Metric::counter(
        REST_REFUSED,
        &["cause"],
        "Requests to the REST API not let in, by cause",
    ),
    Metric::counter(REPORTS, &["result"], "Reports from proxies, by result"),
    Metric::counter(
        LINES_SKIPPED,
        &["cause"],
        "Lines of control streams skipped, by cause",
    ),
    Metric::counter(PUSHES, &["kind"], "Messages to proxies, by kind"),
    Metric::counter(ANSWERS, &["answer"], "Answers of proxies to plans"),
    Metric::gauge(EPOCH, &[], "Epoch of the current plan"),
    Metric::gauge(GENERATION, &[], "Generation of the current plan"),
    Metric::gauge(
        UNPLACED,
        &[],
        "Demand that the planner had no time left for and that stays at home until the next plan",
    ),
    Metric::gauge(GENERATION_STORED, &[], "Generation of the plan on the disk"),
    Metric::gauge(
        AUTHORITY_ENDS,
        &["certificate"],
        "Seconds until a certificate of the authority ends",
    ),
    Metric::gauge(AUTHORITY_ROOTS, &[], "Roots that are believed"),
    Metric::gauge(
        AUTHORITY_BEHIND,
        &[],
        "Connected nodes that do not know the current roots yet",
    ),
    Metric::counter(
        STORE_WRITES,
        &["result"],
        "Batches written to the store, by result",
    ),
];
