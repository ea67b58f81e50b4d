//! `isobar-proxy check`: what is wrong is said with its line and column, and what would be right.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

/// Exit status, standard output and error for a configuration of this text. The directory's name is left out.
fn check(text: &str) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("proxy.toml"), text).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
    let chain = params.self_signed(&key).unwrap();
    std::fs::write(dir.path().join("chain.pem"), chain.pem()).unwrap();
    std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(dir.path().join("other.pem"), other.serialize_pem()).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_isobar-proxy"))
        .args(["check", "--config", "proxy.toml"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        out.status.code().unwrap(),
        text(out.stdout),
        text(out.stderr),
    )
}

const HEAD: &str = "node = \"edge-1\"\ndata_dir = \"/var/lib/isobar\"\n";

/// What is said of [`HEAD`] and these lines, the first of which is line 3.
fn said(lines: &str) -> String {
    let (code, out, error) = check(&format!("{HEAD}{lines}\n"));
    assert_eq!((code, out.as_str()), (1, ""), "{lines}\n{error}");
    error
}

#[test]
fn a_good_one() {
    let text = format!(
        "{HEAD}[[listeners]]\nname = \"web\"\naddress = \"0.0.0.0:443\"\nprotocol = \"https\"\n\
         certificates = [{{ chain_file = \"chain.pem\", key_file = \"key.pem\" }}]\n"
    );
    let (code, out, error) = check(&text);
    assert_eq!(error, "");
    assert_eq!(
        (code, out.as_str()),
        (0, "proxy.toml: good; node edge-1, 1 listeners of its own\n")
    );
}

#[test]
fn what_cannot_be_read() {
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_isobar-proxy"))
            .args(args)
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, error) = run(&["check", "--config", "nothing.toml"]);
    assert_eq!(code, Some(2));
    assert!(
        error.contains("reading nothing.toml: No such file"),
        "{error}"
    );
    let (code, error) = run(&["check"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("--config <FILE>"), "{error}");
}

#[test]
fn what_is_wrong_and_where() {
    let web = "[[listeners]]\nname = \"web\"\naddress = \"0.0.0.0:443\"\n";
    let cases = [
        (
            "lisen = \"0.0.0.0:1\"",
            "proxy.toml:3:1: unknown field `lisen`, expected one of `node`,",
        ),
        (
            "workers = \"two\"",
            "proxy.toml:3:11: invalid type: string \"two\", expected",
        ),
        ("workers = ", "proxy.toml:3:"),
        (
            "[access_log]\nfield = [\"time\"]",
            "proxy.toml:4:1: unknown field `field`, expected one of `output`,",
        ),
        (
            "[access_log]\nfields = [\"time\", \"password\"]",
            "proxy.toml:4:19: unknown variant `password`, expected one of `time`,",
        ),
        (
            "[access_log]\nheaders = [\"x-tenant\", \"Cookie\"]",
            "proxy.toml:4:24: access_log.headers[1]: cookie says who somebody is: no log shows it",
        ),
        (
            "[access_log]\noutput = \"syslog\"\nsyslog = \"tcp:10.0.0.1:514\"\nshare = 2.0",
            "proxy.toml:5:1: access_log.syslog: must be written unix:/dev/log or udp:ADDRESS:PORT\n\
             proxy.toml:6:1: access_log.share: must be from 0 to 1\n",
        ),
        (
            "[traces]\ncollector = \"https://me:secret@collector.example\"\nqueue_len_max = 1",
            "proxy.toml:4:1: traces.collector: must not have a name and a password: the proxy shows none to a collector\n\
             proxy.toml:5:1: traces.queue_len_max: must be from 4096 to 67108864\n",
        ),
        (
            "[traces]\ncollector = \"grpc://collector.example\"\nca_file = \"roots.pem\"",
            "proxy.toml:4:1: traces.collector: must be written http://HOST:PORT or https://HOST:PORT\n\
             proxy.toml:5:1: traces.ca_file: is for a collector at https://HOST:PORT; leave it away\n",
        ),
        (
            "[access_log]\noutput = \"otlp\"\ncollector = \"http://c:1\"\nca_file = \"roots.pem\"",
            "proxy.toml:6:1: access_log.ca_file: is for a collector at https://HOST:PORT; leave it away\n",
        ),
        (
            "workers = 0",
            "proxy.toml:3:1: workers: must be from 1 to 256",
        ),
        (
            "\n  controller = \"nowhere\"",
            "proxy.toml:4:3: controller: must be written host:port",
        ),
        (
            "admin_listen = \"0.0.0.0:1\"",
            "proxy.toml:3:1: admin_listen: must be a loopback address",
        ),
        (
            "limits = { connections_max = 0 }",
            "proxy.toml:3:12: limits.connections_max: must not be 0",
        ),
        (
            "trusted_sources = [\"10.0.0.0/8\", \"all\"]",
            "\"all\" is no address (10.0.0.1) and no range",
        ),
        (
            "[[services]]\nservice = \"shop/cart\"\nendpoints = [{ address = \"a:1\", workers = 0 }]",
            "proxy.toml:5:33: services[0].endpoints[0].workers: must be at least 1",
        ),
        (
            &format!("{web}protocol = \"htps\""),
            "proxy.toml:6:12: unknown variant `htps`, expected one of `http`, `https`",
        ),
        (
            &format!("{web}protocol = \"https\""),
            "proxy.toml:6:1: listeners[0].protocol: \"https\" needs certificates",
        ),
        (
            &format!("{web}protocol = \"tcp\""),
            "proxy.toml:6:1: listeners[0].protocol: \"tcp\" needs a service",
        ),
        (
            &format!("{web}protocol = \"http\"\nproxy_protocol = \"require\""),
            "proxy.toml:7:1: listeners[0].proxy_protocol: needs trusted_sources",
        ),
        (
            &format!(
                "{web}protocol = \"tls-passthrough\"\nby_server_name = {{ \"DB\" = \"shop/db\" }}"
            ),
            "proxy.toml:7:20: listeners[0].by_server_name.\"DB\": must be a host name in lower case",
        ),
        (
            &format!(
                "{web}protocol = \"https\"\ncertificates = [{{ chain_file = \"chain.pem\", key_file = \"other.pem\" }}]"
            ),
            "proxy.toml:7:17: listeners[0].certificates[0]: key and certificate cannot be used together",
        ),
        (
            &format!(
                "{web}protocol = \"https\"\ncertificates = [{{ chain_file = \"none.pem\", key_file = \"key.pem\" }}]"
            ),
            "listeners[0].certificates[0]: reading none.pem: No such file",
        ),
        (
            &format!(
                "{web}protocol = \"http\"\n{}protocol = \"http\"",
                web.replace("web", "mesh")
            ),
            "proxy.toml:8:1: listeners[1].name: \"mesh\" is the name of another listener\n\
             proxy.toml:9:1: listeners[1].address: 0.0.0.0:443 is taken by listeners[0].address\n",
        ),
    ];
    for (lines, expected) in cases {
        let error = said(lines);
        assert!(error.contains(expected), "{lines}\n{error}");
    }
}

#[test]
fn the_examples_of_the_documentation_are_good() {
    for (name, examples_min) in [
        ("configuration.md", 3),
        ("quick-start.md", 1),
        ("observability.md", 2),
    ] {
        let page = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
        let page = std::fs::read_to_string(page).unwrap();
        let examples: Vec<&str> = page
            .split("```toml\n")
            .skip(1)
            .map(|rest| rest.split("```").next().unwrap())
            .collect();
        assert!(
            examples.len() >= examples_min,
            "{} examples",
            examples.len()
        );
        for example in examples {
            if let Err(faults) = isobar_edge_proxy::config::Config::parse(name, example) {
                panic!("{faults}\nin\n{example}");
            }
        }
    }
}

#[test]
fn every_field_of_the_access_log_is_documented() {
    let page = |name: &str| {
        let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    };
    let seen = page("observability.md");
    let log = isobar_edge_proxy::config::telemetry::AccessLogConfig::default();
    for field in log.fields {
        assert!(
            seen.contains(&format!("| `{}` |", field.name())),
            "docs/observability.md lacks {field:?}"
        );
    }
}
