//! The table of operations that are no kind's own.

/// What an operation takes beside its path.
#[derive(Debug, Clone, Copy, Default)]
pub struct Takes {
    /// `limit` and `after`.
    pub pages: bool,
    /// `dry_run`, `If-Match`, `If-None-Match`.
    pub writes: bool,
    /// More query parameters with their schemas' types.
    pub query: &'static [(&'static str, &'static str)],
    /// The body's schema; none when empty.
    pub body: &'static str,
}

/// What it answers when all is well.
#[derive(Debug, Clone, Copy)]
pub enum Answers {
    /// JSON of this schema.
    Json(&'static str),
    /// A page of items of this schema.
    Page(&'static str),
    /// Something else than JSON.
    Text(&'static str),
}

/// One operation.
pub struct Operation {
    /// Its method.
    pub method: &'static str,
    /// Its path.
    pub path: &'static str,
    /// Its summary.
    pub summary: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// What it answers.
    pub answers: Answers,
}

const fn read(path: &'static str, summary: &'static str, answers: Answers) -> Operation {
    Operation {
        method: "get",
        path,
        summary,
        takes: NOTHING,
        answers,
    }
}

/// Nothing.
pub const NOTHING: Takes = Takes {
    pages: false,
    writes: false,
    query: &[],
    body: "",
};
/// A list's parameters.
pub const PAGES: Takes = Takes {
    pages: true,
    ..NOTHING
};
/// A write's parameters.
pub const WRITES: Takes = Takes {
    writes: true,
    ..NOTHING
};
/// What a tap looks at.
const TAPS: Takes = Takes {
    query: &[
        ("from", "string"),
        ("to", "string"),
        ("method", "string"),
        ("path", "string"),
        ("status", "string"),
        ("moved", "boolean"),
        ("max_rps", "integer"),
        ("headers", "string"),
    ],
    ..NOTHING
};
const LEVELS: Takes = Takes {
    body: "Levels",
    ..NOTHING
};
const ENDPOINT: &str = "/v1/services/{namespace}/{name}/endpoints/{node}/{address}";

/// Everything but the kinds' own paths.
pub const OPERATIONS: &[Operation] = &[
    read("/livez", "The process answers", Answers::Text("text/plain")),
    read(
        "/readyz",
        "The control task answers",
        Answers::Text("text/plain"),
    ),
    read(
        "/metrics",
        "Prometheus' text format",
        Answers::Text("text/plain"),
    ),
    read("/openapi.json", "This document", Answers::Json("Anything")),
    read(
        "/v1/status",
        "Everything that is known and planned",
        Answers::Json("Anything"),
    ),
    Operation {
        takes: Takes {
            query: &[("service", "string")],
            ..NOTHING
        },
        ..read(
            "/v1/picture",
            "Nodes, moved load and services' sums in columns, small enough to ask for each second",
            Answers::Json("Anything"),
        )
    },
    Operation {
        takes: Takes {
            query: &[("before", "integer"), ("limit", "integer")],
            ..NOTHING
        },
        ..read(
            "/v1/pictures",
            "Pictures of the last hour, the newest first, from before a time",
            Answers::Page("Anything"),
        )
    },
    read(
        "/v1/whoami",
        "Whose token this is",
        Answers::Json("Anything"),
    ),
    read("/dashboard", "The dashboard", Answers::Text("text/html")),
    read(
        "/v1/plans/current",
        "The plan with what it was made from",
        Answers::Json("Anything"),
    ),
    Operation {
        takes: PAGES,
        ..read(
            "/v1/plans",
            "Generations, the newest first",
            Answers::Page("Anything"),
        )
    },
    read(
        "/v1/plans/{epoch}/{generation}",
        "One generation with every node's answer",
        Answers::Json("Anything"),
    ),
    Operation {
        takes: Takes {
            query: &[("service", "string"), ("node", "string")],
            ..PAGES
        },
        ..read("/v1/weights", "Rows in force", Answers::Page("Anything"))
    },
    read(
        "/v1/explain/{namespace}/{name}/{node}",
        "Why a service's row at a node is as it is",
        Answers::Json("Anything"),
    ),
    Operation {
        method: "post",
        takes: Takes {
            body: "Supposition",
            ..NOTHING
        },
        ..read(
            "/v1/what-if",
            "The plan for a load, a failure or resources that there are not",
            Answers::Json("Tried"),
        )
    },
    read(
        "/v1/events",
        "What happens, as Server-Sent Events",
        Answers::Text("text/event-stream"),
    ),
    Operation {
        takes: TAPS,
        ..read(
            "/v1/tap",
            "Single requests that no known service is for, as they end, as Server-Sent Events",
            Answers::Text("text/event-stream"),
        )
    },
    Operation {
        takes: TAPS,
        ..read(
            "/v1/tap/{namespace}/{name}",
            "Single requests of a service as they end, as Server-Sent Events",
            Answers::Text("text/event-stream"),
        )
    },
    Operation {
        method: "put",
        takes: LEVELS,
        ..read(
            "/v1/log-levels",
            "The controller logs at these levels from now on",
            Answers::Json("Anything"),
        )
    },
    Operation {
        method: "put",
        takes: LEVELS,
        ..read(
            "/v1/nodes/{name}/log-levels",
            "A node's proxy logs at these levels from now on",
            Answers::Json("Anything"),
        )
    },
    Operation {
        method: "post",
        takes: Takes {
            body: "Ends",
            ..NOTHING
        },
        ..read(
            "/v1/bench-link",
            "Measures round trips and throughput between two nodes",
            Answers::Json("Anything"),
        )
    },
    Operation {
        takes: PAGES,
        ..read(
            "/v1/audit",
            "Who changed what, the newest first",
            Answers::Page("Anything"),
        )
    },
    read(
        "/v1/export",
        "Everything that operators wrote",
        Answers::Json("Anything"),
    ),
    Operation {
        method: "post",
        takes: Takes {
            query: &[("dry_run", "boolean"), ("prune", "boolean")],
            body: "Anything",
            ..NOTHING
        },
        ..read(
            "/v1/import",
            "Writes an export back, all of it or nothing",
            Answers::Json("Anything"),
        )
    },
    act("/v1/nodes/{name}/cordon", "It takes no load from others"),
    act("/v1/nodes/{name}/uncordon", "It takes load again"),
    act("/v1/nodes/{name}/drain", "Its endpoints get no load"),
    Operation {
        takes: Takes {
            body: "Relocation",
            ..WRITES
        },
        ..act("/v1/nodes/{name}/relocate", "It is elsewhere from now on")
    },
    Operation {
        takes: PAGES,
        ..read(
            "/v1/endpoints",
            "Registered endpoints",
            Answers::Page("Anything"),
        )
    },
    Operation {
        takes: PAGES,
        ..read(
            "/v1/services/{namespace}/{name}/endpoints",
            "Registered endpoints of a service",
            Answers::Page("Anything"),
        )
    },
    read(
        ENDPOINT,
        "One registered endpoint",
        Answers::Json("Anything"),
    ),
    Operation {
        method: "put",
        takes: Takes {
            body: "Registration",
            ..WRITES
        },
        ..read(
            ENDPOINT,
            "Registers it, or begins its lease anew",
            Answers::Json("Anything"),
        )
    },
    Operation {
        method: "delete",
        takes: WRITES,
        ..read(ENDPOINT, "Removes it", Answers::Json("Tried"))
    },
    Operation {
        takes: PAGES,
        ..read(
            "/v1/audit/refused",
            "Who was refused, the newest first",
            Answers::Page("Anything"),
        )
    },
    read(
        "/v1/authority",
        "Its roots, what it does next, who is behind",
        Answers::Json("Authority"),
    ),
    Operation {
        method: "post",
        takes: Takes {
            body: "AuthorityStep",
            ..NOTHING
        },
        ..read(
            "/v1/authority/steps",
            "Takes a step of a rotation now",
            Answers::Json("Authority"),
        )
    },
    Operation {
        method: "post",
        takes: Takes {
            body: "AuthorityImport",
            ..NOTHING
        },
        ..read(
            "/v1/authority/import",
            "Brings an authority of your own",
            Answers::Json("Authority"),
        )
    },
    read(
        "/v1/mtls",
        "Who must show who they are, and who calls without",
        Answers::Json("Anything"),
    ),
    read(
        "/v1/tokens",
        "What lets proxies enrol",
        Answers::Page("Token"),
    ),
    Operation {
        method: "post",
        takes: Takes {
            body: "TokenAsked",
            ..NOTHING
        },
        ..read(
            "/v1/tokens",
            "Makes one; its text is told once",
            Answers::Json("TokenMade"),
        )
    },
    Operation {
        method: "delete",
        ..read("/v1/tokens/{id}", "Revokes one", Answers::Json("Anything"))
    },
    Operation {
        method: "put",
        ..read(
            "/v1/revocations/{node}",
            "Refuses all that a node was given so far",
            Answers::Json("Anything"),
        )
    },
    read(
        "/v1/credentials",
        "Who may ask",
        Answers::Page("Credential"),
    ),
    Operation {
        method: "post",
        takes: Takes {
            body: "CredentialAsked",
            ..NOTHING
        },
        ..read(
            "/v1/credentials",
            "Makes one; its token is told once",
            Answers::Json("CredentialMade"),
        )
    },
    Operation {
        method: "delete",
        ..read(
            "/v1/credentials/{name}",
            "Revokes one",
            Answers::Json("Anything"),
        )
    },
];

const fn act(path: &'static str, summary: &'static str) -> Operation {
    Operation {
        method: "post",
        path,
        summary,
        takes: WRITES,
        answers: Answers::Json("Node"),
    }
}
