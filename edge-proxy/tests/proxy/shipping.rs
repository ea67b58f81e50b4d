//! Access logs with a shipper that is not ours: rsyslog reads the file as it grows and is put aside, and takes syslog; it is
//! configured as `docs/observability.md` says.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::access_log::{every_request, proxy_with, wait_for};
use crate::support::{Authority, HOST, TestEndpoint, snapshot};
use isobar_edge_proxy::config::telemetry::{AccessLogConfig, Output};
use serde_json::Value;
use tempfile::TempDir;

/// Rounds, after each of which the shipper catches up.
const ROUNDS: usize = 12;
/// Requests of a round, each with a path of its own: less than a file holds, so that it is read before it is put aside.
const FILE_REQUESTS: usize = 10;
/// The same for syslog: many times what its socket holds.
const SYSLOG_REQUESTS: usize = 100;
/// The shortest file that is put aside: about a dozen lines.
const FILE_LEN_MAX: u64 = 4096;

/// The configuration on the page.
fn documented() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/observability.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut blocks = page.split("```").skip(1).step_by(2);
    let block = blocks.find(|block| block.contains("imfile")).unwrap();
    block.strip_prefix("text\n").unwrap().to_owned()
}

/// A running rsyslogd, ended with the test.
struct Rsyslog(Child);

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Rsyslog {
    /// Whether there is one; without it these tests are skipped, unless they are required.
    fn is_there() -> bool {
        let asked = Command::new("rsyslogd").arg("-v").output().is_ok();
        let required = std::env::var("ISOBAR_TEST_REQUIRE").is_ok_and(|what| what == "all");
        assert!(asked || !required, "rsyslogd is not installed");
        if !asked {
            eprintln!("skipped: rsyslogd is not installed");
        }
        asked
    }

    /// Starts one as documented, but with everything below `dir`; waits until it takes syslog.
    async fn start(dir: &Path) -> Rsyslog {
        let mut config = documented();
        let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let paths = [
            ("/var/lib/isobar/access.log", "access.log"),
            ("/run/isobar-syslog", "syslog"),
            ("/var/log/isobar.json", "shipped"),
        ];
        for (path, here) in paths {
            assert!(config.contains(path), "the page says {path}");
            config = config.replace(path, &at(here));
        }
        config.insert_str(0, &format!("global(workDirectory=\"{}\")\n", dir.display()));
        std::fs::write(at("rsyslog.conf"), config).unwrap();
        let child = Command::new("rsyslogd")
            .args(["-n", "-i", &at("pid"), "-f", &at("rsyslog.conf")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let rsyslog = Rsyslog(child);
        wait_for("rsyslogd listens", || {
            dir.join("syslog").exists().then_some(())
        })
        .await;
        rsyslog
    }
}

/// What has arrived, once so many requests' lines have: one object each.
async fn shipped(dir: &Path, requests: usize) -> Vec<Value> {
    wait_for("every request's line arrives", || {
        let text = std::fs::read_to_string(dir.join("shipped")).ok()?;
        let lines: Vec<Value> = text
            .lines()
            .map_while(|line| serde_json::from_str(line).ok())
            .collect();
        let paths: BTreeSet<&str> = lines.iter().filter_map(|l| l["path"].as_str()).collect();
        (paths.len() >= requests).then(|| lines.clone())
    })
    .await
}

/// What rsyslog makes of a proxy's lines, and the directory of both.
async fn through_rsyslog(
    requests: usize,
    configure: impl FnOnce(&Path, &mut AccessLogConfig),
) -> (Vec<Value>, TempDir) {
    let a = TestEndpoint::start("a").await;
    let authority = Authority::new();
    let shipper = tempfile::tempdir().unwrap();
    let _rsyslog = Rsyslog::start(shipper.path()).await;
    let proxy = proxy_with(&snapshot("a", &a, 8), &authority, |config| {
        let mut log = every_request();
        configure(shipper.path(), &mut log);
        config.access_log = Some(log);
    })
    .await;
    let mut lines = Vec::new();
    for round in 1..=ROUNDS {
        for number in (round - 1) * requests..round * requests {
            proxy.get(&format!("/{number}")).await;
        }
        lines = shipped(shipper.path(), round * requests).await;
    }
    proxy.end().await;
    (lines, shipper)
}

fn are_whole(lines: &[Value], requests: usize) {
    assert_eq!(lines.len(), ROUNDS * requests, "no line comes twice");
    for line in lines {
        assert_eq!(
            (&line["node"], &line["host"], &line["method"]),
            (&"a".into(), &HOST.into(), &"GET".into()),
            "{line}"
        );
        assert_eq!(line["status"], 200, "{line}");
        assert!(line["duration_us"].is_u64(), "{line}");
    }
}

#[tokio::test]
async fn rsyslog_reads_a_file_that_is_put_aside_and_loses_no_line() {
    if !Rsyslog::is_there() {
        return;
    }
    let (lines, dir) = through_rsyslog(FILE_REQUESTS, |dir, log| {
        log.file = Some(dir.join("access.log"));
        log.file_len_max = FILE_LEN_MAX;
        log.files_kept = 100;
    })
    .await;
    are_whole(&lines, FILE_REQUESTS);
    assert!(
        dir.path().join("access.log.5").exists(),
        "files are put aside"
    );
}

#[tokio::test]
async fn rsyslog_takes_lines_as_syslog() {
    if !Rsyslog::is_there() {
        return;
    }
    let (lines, _) = through_rsyslog(SYSLOG_REQUESTS, |dir, log| {
        log.output = Output::Syslog;
        log.syslog = format!("unix:{}", dir.join("syslog").display());
    })
    .await;
    are_whole(&lines, SYSLOG_REQUESTS);
}
