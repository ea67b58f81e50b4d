//! The rules that bring connections to an intercepting listener: `isobar-proxy intercept`.
//!
//! ```text
//! redirect   what leaves an application, or arrives for one, is sent to the listener instead (nat, output, prerouting)
//! tproxy     what passes through this machine, or arrives, is given to the listener as it is (mangle, prerouting)
//! ```
//!
//! What the proxy itself opens must not come back to it: with `redirect` its user is exempt. What is for the proxy's own
//! ports is left alone when what arrives is intercepted. Where only what leaves is redirected, the proxy tells the kernel itself
//! (`kernel.rs`), so that an image with nothing in it but the proxy can do that; the rest needs `nft` and `ip`.

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

/// The user that the proxy runs as in its image.
pub const PROXY_UID: u32 = 65532;
/// Ports that are the proxy's own: ingress, mesh, outbound, admin. What arrives at them is for it.
pub const OWN_PORTS: [u16; 4] = [7410, 7411, 7412, 7419];

/// Why rules are not made or applied.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// No listener intercepts.
    #[error(
        "nothing to intercept: name --inbound or --outbound, or a listener with intercept = \"redirect\" or \"tproxy\""
    )]
    Nothing,
    /// A program is missing.
    #[error("running {0}; install nftables and iproute2, or run what --print says where they are")]
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

/// Connections of one direction, and the listener that gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catch {
    /// How they come there.
    pub how: Intercept,
    /// Whether they arrive for an application of this machine; else they leave one, or pass through.
    pub inbound: bool,
    /// Ports they go to; empty: all.
    pub ports: Vec<u16>,
    /// The listener's port.
    pub to: u16,
    /// Whether the listener has no address of IPv6, to which a redirection of IPv6 would go.
    pub ipv4_alone: bool,
}

impl Catch {
    /// What an intercepting listener of a configuration catches: what leaves, or passes through.
    pub fn of(listener: &ListenerConfig) -> Option<Catch> {
        (listener.intercept != Intercept::Off).then(|| Catch {
            how: listener.intercept,
            inbound: false,
            ports: listener.intercept_ports.clone(),
            to: listener.address.port(),
            ipv4_alone: listener.address.is_ipv4(),
        })
    }

    /// A line that sends connections elsewhere.
    fn redirect(&self) -> String {
        let family = if self.ipv4_alone {
            "meta nfproto ipv4 "
        } else {
            ""
        };
        format!("    {family}{}redirect to :{}\n", self.of_ports(), self.to)
    }

    /// The same for the kernel: a rule for each port.
    fn redirects(&self) -> Vec<Redirect> {
        let one = |port: Option<u16>| Redirect {
            port,
            to: self.to,
            ipv4_alone: self.ipv4_alone,
        };
        match self.ports.as_slice() {
            [] => vec![one(None)],
            ports => ports.iter().map(|port| one(Some(*port))).collect(),
        }
    }

    fn of_ports(&self) -> String {
        match self.ports.is_empty() {
            true => "meta l4proto tcp ".to_owned(),
            false => format!("tcp dport {{ {} }} ", list(&self.ports)),
        }
    }
}

/// What is to be done for all intercepting listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// For `nft -f -`.
    pub nft: String,
    /// Arguments of `ip`, one call each; those that are there already do no harm.
    pub ip: Vec<String>,
    /// `nft` for the kernel; empty where that takes `nft` itself.
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

/// The rules for all that is to be caught. Connections of user `exempt_uid` are left alone when they leave, those to
/// `own_ports` when they arrive.
///
/// # Errors
/// Nothing is to be caught.
pub fn rules(
    catches: &[Catch],
    exempt_uid: u32,
    own_ports: &[u16],
) -> Result<Rules, InterceptError> {
    if catches.iter().all(|catch| catch.how == Intercept::Off) {
        return Err(InterceptError::Nothing);
    }
    let lines = |how: Intercept, inbound: bool| {
        let of = move |catch: &&Catch| catch.how == how && catch.inbound == inbound;
        let caught = catches.iter().filter(of);
        caught.map(move |catch| match how {
            Intercept::Tproxy => tproxy(catch),
            _ => catch.redirect(),
        })
    };
    let own = match own_ports.is_empty() {
        true => String::new(),
        false => format!("    tcp dport {{ {} }} return\n", list(own_ports)),
    };
    let redirect = |inbound| lines(Intercept::Redirect, inbound).collect::<String>();
    let (arriving, leaving) = (redirect(true), redirect(false));
    let mut chains = String::new();
    // Writing to a string does not fail.
    if !leaving.is_empty() {
        let _ = write!(
            chains,
            "  chain output {{\n    type nat hook output priority -100; policy accept;\n    \
             meta skuid {exempt_uid} return\n    fib daddr type local return\n{leaving}  }}\n"
        );
    }
    if !arriving.is_empty() {
        let _ = write!(
            chains,
            "  chain arriving {{\n    type nat hook prerouting priority -100; policy accept;\n    \
             iif lo return\n    fib daddr type != local return\n{own}{arriving}  }}\n"
        );
    }
    let given = |inbound| lines(Intercept::Tproxy, inbound).collect::<String>();
    let (here, through) = (given(true), given(false));
    let mut ip = Vec::new();
    if !here.is_empty() || !through.is_empty() {
        give(&mut chains, &own, &here, &through);
        for (family, any) in [("-4", "0.0.0.0/0"), ("-6", "::/0")] {
            ip.push(format!(
                "{family} rule add fwmark {MARK:#x} lookup {ROUTES}"
            ));
            ip.push(format!(
                "{family} route add local {any} dev lo table {ROUTES}"
            ));
        }
    }
    let nft = format!(
        "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n{chains}}}\n"
    );
    // What only leaves can be told to the kernel without another program.
    let told = match ip.is_empty() && arriving.is_empty() {
        true => {
            let redirects = catches.iter().filter(|c| c.how == Intercept::Redirect);
            redirects.flat_map(Catch::redirects).collect()
        }
        false => Vec::new(),
    };
    Ok(Rules {
        nft,
        ip,
        redirects: told,
        exempt_uid,
    })
}

/// The chains that give connections to a listener as they are: those for this machine, and those that pass through.
fn give(chains: &mut String, own: &str, here: &str, through: &str) {
    let mut jump = "";
    // Writing to a string does not fail.
    if !here.is_empty() {
        jump = "    fib daddr type local iif != lo jump here\n";
        let _ = write!(chains, "  chain here {{\n{own}{here}  }}\n");
    }
    let _ = write!(
        chains,
        "  chain prerouting {{\n    type filter hook prerouting priority -150; policy accept;\n    \
         meta l4proto tcp socket transparent 1 meta mark set {MARK:#x} accept\n{jump}    \
         fib daddr type local return\n{through}  }}\n"
    );
}

/// One line per family: a rule gives to a socket of its own.
fn tproxy(catch: &Catch) -> String {
    let (ports, port) = (catch.of_ports(), catch.to);
    let line = |(any, family)| {
        format!(
            "    meta nfproto {any} {ports}tproxy {family} to :{port} meta mark set {MARK:#x} accept\n"
        )
    };
    [("ipv4", "ip"), ("ipv6", "ip6")].map(line).concat()
}

fn list(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(", ")
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
        if !self.redirects.is_empty() {
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
    use super::*;

    fn catch(how: Intercept, inbound: bool, ports: &[u16], to: u16) -> Catch {
        Catch {
            how,
            inbound,
            ports: ports.to_vec(),
            to,
            ipv4_alone: true,
        }
    }

    /// In a network of its own, which needs root; what the kernel shows is what it was told.
    #[test]
    fn the_kernel_takes_the_rules_and_takes_them_again() {
        let program = std::env::current_exe().expect("a test has a program");
        if std::env::var_os("ISOBAR_TEST_IN_NAMESPACE").is_some() {
            let redirect = catch(Intercept::Redirect, false, &[80, 5432], 7413);
            let rules = rules(&[redirect], 977, &OWN_PORTS).unwrap();
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
    fn what_leaves_is_redirected() {
        let redirect = catch(Intercept::Redirect, false, &[80, 5432], 7413);
        let rules = rules(&[redirect], 977, &OWN_PORTS).unwrap();
        let expected = "table inet isobar\ndelete table inet isobar\ntable inet isobar {\n  chain output {\n    \
            type nat hook output priority -100; policy accept;\n    meta skuid 977 return\n    \
            fib daddr type local return\n    meta nfproto ipv4 tcp dport { 80, 5432 } redirect to :7413\n  }\n}\n";
        assert_eq!(rules.nft, expected);
        assert!(rules.ip.is_empty());
    }

    #[test]
    fn what_arrives_is_redirected_but_for_the_proxys_own() {
        let both = [
            catch(Intercept::Redirect, true, &[], 7413),
            catch(Intercept::Redirect, false, &[], 7414),
        ];
        let nft = rules(&both, 977, &OWN_PORTS).unwrap().nft;
        let arriving = "iif lo return\n    fib daddr type != local return\n    \
            tcp dport { 7410, 7411, 7412, 7419 } return\n    meta nfproto ipv4 meta l4proto tcp redirect to :7413\n";
        assert!(nft.contains(arriving), "{nft}");
        assert!(
            nft.contains("return\n    meta nfproto ipv4 meta l4proto tcp redirect to :7414\n"),
            "{nft}"
        );
    }

    #[test]
    fn what_passes_through_is_given() {
        let through = catch(Intercept::Tproxy, false, &[], 7414);
        let tproxy = rules(std::slice::from_ref(&through), 0, &[]).unwrap();
        let rule =
            "meta nfproto ipv4 meta l4proto tcp tproxy ip to :7414 meta mark set 0x150 accept";
        assert!(tproxy.nft.contains(rule), "{}", tproxy.nft);
        assert_eq!(tproxy.ip[0], "-4 rule add fwmark 0x150 lookup 150");
        let script = tproxy.script();
        assert!(
            script.ends_with("ip -6 route add local ::/0 dev lo table 150\n"),
            "{script}"
        );
        let here = catch(Intercept::Tproxy, true, &[80], 7415);
        let nft = rules(&[through, here], 0, &[7411]).unwrap().nft;
        assert!(
            nft.contains("chain here {\n    tcp dport { 7411 } return\n"),
            "{nft}"
        );
        assert!(
            nft.contains("fib daddr type local iif != lo jump here"),
            "{nft}"
        );
    }

    #[test]
    fn nothing_is_an_error() {
        assert!(rules(&[], 0, &[]).is_err());
        assert!(rules(&[catch(Intercept::Off, false, &[], 1)], 0, &[]).is_err());
    }
}
