//! The rules that bring connections to an intercepting listener: `isobar-proxy intercept`.
//!
//! ```text
//! redirect   an application's connection leaves, and is sent to the listener instead (nat, output)
//! tproxy     a connection passes through or arrives, and is given to the listener as it is (mangle, prerouting)
//! ```
//!
//! What the proxy itself opens must not come back to it: with `redirect` its user is exempt. Redirecting rules are told to the kernel
//! by the proxy itself (`kernel.rs`), so that an image with nothing in it but the proxy can make them; `tproxy` needs `nft` and `ip`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::config::listener::{Intercept, ListenerConfig};

mod kernel;

/// The table that the rules stand in; removed and made anew each time.
pub const TABLE: &str = "isobar";
/// Marks packets that the listener gets, so that they are routed to this machine.
pub const MARK: u32 = 0x150;
/// The routing table for marked packets.
pub const ROUTES: u32 = 150;

/// Why rules are not made or applied.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// No listener intercepts.
    #[error("no listener has intercept = \"redirect\" or \"tproxy\"")]
    NoListener,
    /// A program is missing.
    #[error("running {0}")]
    Run(String, #[source] std::io::Error),
    /// A program says no.
    #[error("{0}: {1}")]
    Refused(String, String),
    /// The kernel says no.
    #[error(
        "the kernel does not take the rules; they need the capability NET_ADMIN, and nf_tables with NAT"
    )]
    Kernel(#[source] std::io::Error),
}

/// What is to be done for all intercepting listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// For `nft -f -`.
    pub nft: String,
    /// Arguments of `ip`, one call each; those that are there already do no harm.
    pub ip: Vec<String>,
    /// The redirecting part of `nft`, for the kernel.
    redirects: Vec<Redirect>,
    exempt_uid: u32,
}

/// Connections that are sent to a listener of this machine instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Redirect {
    /// Those to this port; none for all.
    port: Option<u16>,
    /// The listener's port.
    to: u16,
    /// Whether the listener has no address of IPv6, to which a redirection of IPv6 would go.
    ipv4_alone: bool,
}

/// The rules for these listeners; connections of user `exempt_uid` are left alone.
///
/// # Errors
/// None of them intercepts.
pub fn rules(listeners: &[ListenerConfig], exempt_uid: u32) -> Result<Rules, InterceptError> {
    let of = |kind: Intercept| {
        listeners
            .iter()
            .filter(move |listener| listener.intercept == kind)
    };
    let (redirects, tproxies) = (of(Intercept::Redirect), of(Intercept::Tproxy));
    let (output, told) = redirecting(redirects);
    let mut prerouting = String::new();
    for listener in tproxies {
        let (ports, port) = (ports(listener), listener.address.port());
        for family in ["ip", "ip6"] {
            let any = if family == "ip" { "ipv4" } else { "ipv6" };
            let _ = writeln!(
                prerouting,
                "    meta nfproto {any} {ports}tproxy {family} to :{port} meta mark set {MARK:#x} accept"
            );
        }
    }
    if output.is_empty() && prerouting.is_empty() {
        return Err(InterceptError::NoListener);
    }
    let mut nft = format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    if !output.is_empty() {
        let _ = write!(
            nft,
            "  chain output {{\n    type nat hook output priority dstnat; policy accept;\n    \
             meta skuid {exempt_uid} return\n    fib daddr type local return\n{output}  }}\n"
        );
    }
    let mut ip = Vec::new();
    if !prerouting.is_empty() {
        let _ = write!(
            nft,
            "  chain prerouting {{\n    type filter hook prerouting priority mangle; policy accept;\n    \
             meta l4proto tcp socket transparent 1 meta mark set {MARK:#x} accept\n    \
             fib daddr type local return\n{prerouting}  }}\n"
        );
        for family in ["-4", "-6"] {
            let any = if family == "-4" { "0.0.0.0/0" } else { "::/0" };
            ip.push(format!(
                "{family} rule add fwmark {MARK:#x} lookup {ROUTES}"
            ));
            ip.push(format!(
                "{family} route add local {any} dev lo table {ROUTES}"
            ));
        }
    }
    nft.push_str("}\n");
    Ok(Rules {
        nft,
        ip,
        redirects: told,
        exempt_uid,
    })
}

/// The redirecting rules, as text and for the kernel.
fn redirecting<'a>(listeners: impl Iterator<Item = &'a ListenerConfig>) -> (String, Vec<Redirect>) {
    let mut output = String::new();
    let mut told = Vec::new();
    for listener in listeners {
        let ports = ports(listener);
        let (port, ipv4_alone) = (listener.address.port(), listener.address.is_ipv4());
        let family = if ipv4_alone { "meta nfproto ipv4 " } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(output, "    {family}{ports}redirect to :{port}");
        let redirect = |from: Option<u16>| Redirect {
            port: from,
            to: port,
            ipv4_alone,
        };
        match listener.intercept_ports.as_slice() {
            [] => told.push(redirect(None)),
            some => told.extend(some.iter().map(|from| redirect(Some(*from)))),
        }
    }
    (output, told)
}

fn ports(listener: &ListenerConfig) -> String {
    let ports: Vec<String> = listener
        .intercept_ports
        .iter()
        .map(u16::to_string)
        .collect();
    match ports.is_empty() {
        true => "meta l4proto tcp ".to_owned(),
        false => format!("tcp dport {{ {} }} ", ports.join(", ")),
    }
}

impl Rules {
    /// As a script that an operator can read and run.
    pub fn script(&self) -> String {
        let mut script = format!("nft -f - <<'END'\n{}END\n", self.nft);
        for arguments in &self.ip {
            let _ = writeln!(script, "ip {arguments}");
        }
        script
    }

    /// Puts them into force on this machine.
    ///
    /// # Errors
    /// The kernel, `nft` or `ip` says no, or one of these is missing; they usually want root.
    pub fn apply(&self) -> Result<(), InterceptError> {
        if self.ip.is_empty() {
            return kernel::apply(&self.redirects, self.exempt_uid);
        }
        run("nft", &["-f", "-"], &self.nft, None)?;
        for arguments in &self.ip {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            run("ip", &arguments, "", Some("File exists"))?;
        }
        Ok(())
    }
}

/// Takes the rules off this machine.
///
/// # Errors
/// As [`Rules::apply`].
pub fn remove() -> Result<(), InterceptError> {
    let nft = format!("table inet {TABLE}\ndelete table inet {TABLE}\n");
    run("nft", &["-f", "-"], &nft, None)?;
    let (mark, routes) = (format!("{MARK:#x}"), ROUTES.to_string());
    for family in ["-4", "-6"] {
        let rule = [family, "rule", "del", "fwmark", &mark, "lookup", &routes];
        run("ip", &rule, "", Some("No such file"))?;
        let route = [family, "route", "flush", "table", &routes];
        run("ip", &route, "", Some("does not exist"))?;
    }
    Ok(())
}

/// Runs a program; an error whose text has `harmless` in it is none.
fn run(
    program: &str,
    arguments: &[&str],
    input: &str,
    harmless: Option<&str>,
) -> Result<(), InterceptError> {
    let failed = |error| InterceptError::Run(program.to_owned(), error);
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let ended = child.wait_with_output().map_err(failed)?;
    let said = String::from_utf8_lossy(&ended.stderr);
    match ended.status.success() || harmless.is_some_and(|harmless| said.contains(harmless)) {
        true => Ok(()),
        false => {
            let line = format!("{program} {}", arguments.join(" "));
            Err(InterceptError::Refused(line, said.trim().to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::listener::ListenerProtocol;

    fn listener(intercept: Intercept, port: u16, ports: &[u16]) -> ListenerConfig {
        let address = SocketAddr::from(([0, 0, 0, 0], port));
        let mut listener = ListenerConfig::new("own", address, ListenerProtocol::Detect);
        listener.intercept = intercept;
        listener.intercept_ports = ports.to_vec();
        listener
    }

    /// In a network of its own, which needs root; what the kernel shows is what it was told.
    #[test]
    fn the_kernel_takes_the_rules_and_takes_them_again() {
        let program = std::env::current_exe().expect("a test has a program");
        if std::env::var_os("ISOBAR_TEST_IN_NAMESPACE").is_some() {
            let rules = rules(&[listener(Intercept::Redirect, 7413, &[80, 5432])], 977).unwrap();
            rules.apply().unwrap();
            rules.apply().unwrap();
            let shown = Command::new("nft").args(["list", "ruleset"]).output();
            let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
            for rule in [
                "type nat hook output priority -100; policy accept;",
                "meta skuid 977 return",
                "fib daddr type local return",
                "meta nfproto ipv4 tcp dport 80 redirect to :7413",
                "meta nfproto ipv4 tcp dport 5432 redirect to :7413",
            ] {
                assert_eq!(shown.matches(rule).count(), 1, "{rule}: {shown}");
            }
            remove().unwrap();
            return;
        }
        let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
        let may = Command::new("unshare").args(["-n", "true"]).status();
        if !has("nft") || !has("ip") || !may.is_ok_and(|status| status.success()) {
            let required = std::env::var("ISOBAR_TEST_REQUIRE").as_deref() == Ok("all");
            assert!(
                !required,
                "there is no nft, no ip, or no network of one's own"
            );
            println!("skipped: there is no nft, no ip, or no network of one's own");
            return;
        }
        let test = "intercept::tests::the_kernel_takes_the_rules_and_takes_them_again";
        let ran = Command::new("unshare")
            .arg("-n")
            .arg(program)
            .args(["--exact", test, "--nocapture"])
            .env("ISOBAR_TEST_IN_NAMESPACE", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{said}");
    }

    #[test]
    fn what_the_rules_say() {
        let redirect = rules(&[listener(Intercept::Redirect, 7413, &[80, 5432])], 977).unwrap();
        let expected = "table inet isobar\ndelete table inet isobar\ntable inet isobar {\n  chain output {\n    \
            type nat hook output priority dstnat; policy accept;\n    meta skuid 977 return\n    \
            fib daddr type local return\n    meta nfproto ipv4 tcp dport { 80, 5432 } redirect to :7413\n  }\n}\n";
        assert_eq!(redirect.nft, expected);
        assert!(redirect.ip.is_empty());
        let tproxy = rules(&[listener(Intercept::Tproxy, 7414, &[])], 0).unwrap();
        let rule =
            "meta nfproto ipv4 meta l4proto tcp tproxy ip to :7414 meta mark set 0x150 accept";
        assert!(tproxy.nft.contains(rule), "{}", tproxy.nft);
        assert_eq!(tproxy.ip[0], "-4 rule add fwmark 0x150 lookup 150");
        assert!(
            tproxy
                .script()
                .ends_with("ip -6 route add local ::/0 dev lo table 150\n")
        );
        assert!(rules(&[listener(Intercept::Off, 1, &[])], 0).is_err());
    }
}
