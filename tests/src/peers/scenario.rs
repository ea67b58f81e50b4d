//! What can be measured. A new scenario is a line in [`SCENARIOS`]; one of a new kind is a variant of
//! [`Work`] too, and an arm in `bench.rs`.

use std::fmt::Write;

use anyhow::{Result, bail};

/// Body of a small answer, bytes.
const SMALL_LEN: usize = 128;

/// What is done in one measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// HTTP/1.1 keep-alive connections in a closed loop.
    Closed {
        /// Connections at once.
        connections: usize,
        /// Body of each request, bytes.
        send_len: usize,
        /// Body of each answer, bytes.
        answer_len: usize,
    },
    /// HTTP/2 connections of h2load in a closed loop; small answers.
    Http2 {
        /// Connections at once.
        connections: usize,
        /// Streams at once on each.
        streams: usize,
    },
    /// Unary gRPC calls of h2load in a closed loop, to a backend that speaks HTTP/2.
    Grpc {
        /// Connections at once.
        connections: usize,
        /// Calls at once on each.
        streams: usize,
    },
    /// HTTP/1.1 over TLS that ends at the proxy, keep-alive connections of h2load in a closed loop; small answers.
    Tls {
        /// Connections at once.
        connections: usize,
    },
    /// HTTP/1.1 keep-alive connections in an open loop, at 30 % of the slowest proxy's capacity.
    Open {
        /// Connections at once.
        connections: usize,
    },
    /// Idle connections and what they leave behind.
    Memory,
}

impl Work {
    /// Whether h2load does it.
    pub fn is_h2loads(self) -> bool {
        matches!(
            self,
            Work::Http2 { .. } | Work::Grpc { .. } | Work::Tls { .. }
        )
    }

    /// Whether each request moves enough that bytes per CPU second say more than requests.
    pub fn is_bulk(self) -> bool {
        matches!(self, Work::Closed { send_len, answer_len, .. } if send_len + answer_len > 16 * 1024)
    }
}

/// One line of the list.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// As it stands on the command line and in the report.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// What is done.
    pub work: Work,
    /// When it runs unasked.
    pub when: When,
}

/// When a scenario runs unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// Only by name, or with `all`.
    Named,
    /// In the default run too.
    Default,
    /// In the quick run too.
    Quick,
}

const fn small(connections: usize) -> Work {
    Work::Closed {
        connections,
        send_len: 0,
        answer_len: SMALL_LEN,
    }
}

const fn bulk(connections: usize, send_len: usize, answer_len: usize) -> Work {
    Work::Closed {
        connections,
        send_len,
        answer_len,
    }
}

/// Everything that can be measured, in the order of the report.
pub const SCENARIOS: &[Scenario] = &[
    line(
        "h1-32",
        "HTTP/1.1 keep-alive, 128 B answers, 32 connections",
        When::Quick,
        small(32),
    ),
    line(
        "h1-256",
        "HTTP/1.1 keep-alive, 128 B answers, 256 connections",
        When::Default,
        small(256),
    ),
    line(
        "h2-32",
        "HTTP/2, 128 B answers, 32 connections of 8 streams, by h2load",
        When::Default,
        Work::Http2 {
            connections: 32,
            streams: 8,
        },
    ),
    line(
        "grpc-32",
        "unary gRPC, 16 B messages, 32 connections of 8 calls, by h2load; HTTP/2 to the backend",
        When::Default,
        Work::Grpc {
            connections: 32,
            streams: 8,
        },
    ),
    line(
        "tls-32",
        "HTTP/1.1 over TLS 1.3, 128 B answers, 32 connections, by h2load",
        When::Default,
        Work::Tls { connections: 32 },
    ),
    line(
        "down-64k",
        "64 KiB answers, 32 connections",
        When::Named,
        bulk(32, 0, 64 << 10),
    ),
    line(
        "up-64k",
        "64 KiB requests, 32 connections",
        When::Named,
        bulk(32, 64 << 10, SMALL_LEN),
    ),
    line(
        "down-10m",
        "10 MiB answers, 8 connections",
        When::Named,
        bulk(8, 0, 10 << 20),
    ),
    line(
        "up-10m",
        "10 MiB requests, 8 connections",
        When::Named,
        bulk(8, 10 << 20, SMALL_LEN),
    ),
    line(
        "latency",
        "HTTP/1.1, 128 B answers, open loop at 30 % of the slowest proxy's capacity, 64 connections",
        When::Quick,
        Work::Open { connections: 64 },
    ),
    line(
        "memory",
        "resident: fresh, with idle connections, and 30 s after they closed (quick: 2 s)",
        When::Quick,
        Work::Memory,
    ),
];

const fn line(name: &'static str, about: &'static str, when: When, work: Work) -> Scenario {
    Scenario {
        name,
        about,
        work,
        when,
    }
}

/// The scenarios that were asked for, in the order of [`SCENARIOS`].
///
/// # Errors
/// A name that is not there.
pub fn select(names: &[String], quick: bool) -> Result<Vec<Scenario>> {
    if let Some(unknown) = names
        .iter()
        .find(|n| *n != "all" && !SCENARIOS.iter().any(|s| s.name == **n))
    {
        bail!("no scenario {unknown:?}; there are:\n{}", list());
    }
    let least = if quick { When::Quick } else { When::Default };
    let asked = |s: &&Scenario| match names {
        [] => s.when >= least,
        names => names.iter().any(|n| n == "all" || n == s.name),
    };
    Ok(SCENARIOS.iter().filter(asked).copied().collect())
}

/// The list for people; `*` marks the default run.
pub fn list() -> String {
    let mut list = String::new();
    for scenario in SCENARIOS {
        let mark = if scenario.when >= When::Default {
            '*'
        } else {
            ' '
        };
        // Writing to a String does not fail.
        let _ = writeln!(list, "{mark} {:<10} {}", scenario.name, scenario.about);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_runs() {
        let names = |names: &[&str], quick| {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            let selected = select(&names, quick)?;
            anyhow::Ok(selected.iter().map(|s| s.name).collect::<Vec<_>>())
        };
        assert_eq!(
            names(&["latency", "h1-32"], false).unwrap(),
            ["h1-32", "latency"]
        );
        assert_eq!(names(&["all"], true).unwrap().len(), SCENARIOS.len());
        assert_eq!(names(&[], true).unwrap(), ["h1-32", "latency", "memory"]);
        assert!(
            names(&["h1-33"], false)
                .unwrap_err()
                .to_string()
                .contains("h1-256")
        );
    }
}
