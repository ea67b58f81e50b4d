//! With programs that we did not write: `openssl`, `curl`, nginx and Envoy, on both ends of mutual TLS.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{PROGRAM, Process, addresses, start, wait_for};

/// Whether programs are there; that one is not is a failure where all are required.
fn has(programs: &[(&str, &str)]) -> bool {
    let required = std::env::var("ISOBAR_TEST_REQUIRE").is_ok_and(|all| all == "all");
    programs.iter().all(|(program, flag)| {
        let there = Command::new(program).arg(flag).output().is_ok();
        assert!(there || !required, "{program} is required and not there");
        if !there {
            println!("skipped: {program} is not there");
        }
        there
    })
}

/// Ports that nobody has; somebody could take one before it is used.
fn free_ports<const N: usize>() -> [u16; N] {
    let bound = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    bound.map(|listener| listener.local_addr().unwrap().port())
}

struct Site {
    directory: tempfile::TempDir,
    rest: String,
    stream: String,
    proxy: Value,
    _programs: Vec<Process>,
}

impl Site {
    /// A controller with HTTPS, and the proxy of north-1 with a listener that asks who calls.
    fn start(endpoint: u16) -> Site {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let (config, data) = (root.join("controller.toml"), root.join("controller"));
        let text = format!(
            "data_dir = {data:?}\nperiod_ms = 100\nenrol_open = true\nrest_listen = '127.0.0.1:0'\nstream_listen = '127.0.0.1:0'\n\
             [[rest_clients]]\nidentity = 'spiffe://isobar.local/node/north-1'\nrole = 'viewer'\n"
        );
        std::fs::write(&config, text).unwrap();
        let controller = start("controller", &config);
        let said = addresses(&data);
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "1",
            ])
            .args([
                "-subj",
                "/CN=own",
                "-addext",
                "subjectAltName=DNS:cart.example",
                "-keyout",
            ])
            .arg(root.join("own-key.pem"))
            .arg("-out")
            .arg(root.join("own.pem"))
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let config = root.join("proxy.toml");
        let text = format!(
            "node = 'north-1'\nsite = 'hall'\nlocation = {{ lat_deg = 45.0, lon_deg = 9.0 }}\ndata_dir = {:?}\ncontroller = {}\nca_file = {:?}\ntoken_file = {:?}\n\
             listen = '127.0.0.1:0'\nmesh_listen = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'\nworkers = 1\n\
             [[services]]\nservice = 'shop/cart'\nhosts = ['cart.example']\ncapacity_rps = 1000.0\n\
             endpoints = [{{ address = '127.0.0.1:{endpoint}', workers = 4 }}]\n\
             [[listeners]]\nname = 'own'\naddress = '127.0.0.1:0'\nprotocol = 'https'\nmesh_callers = true\n\
             certificates = [{{ chain_file = {:?}, key_file = {:?}, default = true }}]\n",
            root.join("proxy"),
            said["stream"],
            data.join("ca.pem"),
            data.join("enrol-token"),
            root.join("own.pem"),
            root.join("own-key.pem"),
        );
        std::fs::write(&config, text).unwrap();
        let proxy = start("proxy", &config);
        let site = Site {
            rest: said["rest"].as_str().unwrap().to_owned(),
            stream: said["stream"].as_str().unwrap().to_owned(),
            proxy: addresses(&root.join("proxy")),
            directory,
            _programs: vec![proxy, controller],
        };
        wait_for("a certificate", || {
            site.path("proxy/node-chain.pem").exists().then_some(())
        });
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn port(&self, address: &Value) -> u16 {
        address
            .as_str()
            .unwrap()
            .rsplit_once(':')
            .unwrap()
            .1
            .parse()
            .unwrap()
    }

    fn isobar(&self, line: &str) -> (Option<i32>, String) {
        let token = std::fs::read_to_string(self.path("controller/admin-token")).unwrap();
        let output = Command::new(PROGRAM)
            .args(line.split_whitespace())
            .env("ISOBAR_CONFIG", self.path("none.yaml"))
            .env("ISOBAR_CONTROLLER", format!("https://{}", self.rest))
            .env("ISOBAR_CA_FILE", self.path("controller/ca.pem"))
            .env("ISOBAR_TOKEN", token.trim())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// What `curl` says, with the status behind it.
    fn curl(&self, words: &[&str]) -> (bool, String) {
        let mut command = Command::new("curl");
        command
            .args(["-sS", "--max-time", "20", "-w", " %{http_code}"])
            .args(words);
        let output = command.current_dir(self.directory.path()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    fn curl_until(&self, words: &[&str], end: &str) {
        let mut last = String::new();
        let began = std::time::Instant::now();
        while !last.ends_with(end) {
            assert!(
                began.elapsed() < super::PATIENCE,
                "{words:?}: {last} is not {end}"
            );
            last = self.curl(words).1;
        }
    }

    /// `openssl s_client` at the mesh port; what it says.
    fn s_client(&self, words: &[&str]) -> String {
        let to = format!("127.0.0.1:{}", self.port(&self.proxy["mesh"]));
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &to, "-alpn", "h2", "-CAfile"])
            .arg(self.path("controller/ca.pem"))
            .args(words)
            .stdin(Stdio::null())
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// A token for the proxy of a workload at a node.
    fn token(&self, node: &str, account: &str) -> String {
        let (code, said) = self.isobar(&format!("token create --node {node} --workload {account}"));
        assert_eq!(code, Some(0), "{said}");
        let token = said.lines().find(|line| line.starts_with("enrol_"));
        token.unwrap().to_owned()
    }

    /// The proxy beside a workload at a node, without endpoints, in one place with north-1; where its clients come in.
    fn beside(&self, node: &str, account: &str) -> (Process, String) {
        let data = self.path(node);
        let (config, token) = (
            self.path(&format!("{node}.toml")),
            self.path(&format!("{node}-token")),
        );
        std::fs::write(&token, self.token(node, account)).unwrap();
        let text = format!(
            "node = '{node}'\nsite = 'hall'\nlocation = {{ lat_deg = 45.0, lon_deg = 9.0 }}\ndata_dir = {data:?}\ncontroller = '{}'\ntoken_file = {token:?}\n\
             listen = '127.0.0.1:0'\nmesh_listen = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'\nworkers = 1\n",
            self.stream
        );
        std::fs::write(&config, text).unwrap();
        let proxy = start("proxy", &config);
        let ingress = self.port(&addresses(&data)["ingress"]);
        (proxy, format!("http://127.0.0.1:{ingress}/"))
    }

    /// The certificate of a workload, for a key and a request that openssl makes: `workload.pem`, `workload-key.pem`.
    fn enrol_workload(&self) {
        let made = Command::new("openssl")
            .args([
                "req",
                "-new",
                "-newkey",
                "ec",
                "-nodes",
                "-subj",
                "/CN=front",
            ])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-keyout", "workload-key.pem", "-out", "workload.csr"])
            .current_dir(self.directory.path())
            .output();
        assert!(made.unwrap().status.success());
        let token = self.token("till-3", "shop/front");
        let asked = json!({
            "node": "till-3", "token": token,
            "csr_pem": std::fs::read_to_string(self.path("workload.csr")).unwrap(),
        });
        std::fs::write(self.path("asked.json"), asked.to_string()).unwrap();
        let url = format!("https://{}/v1/enrol", self.stream);
        let words = [
            "--http2",
            "--cacert",
            "controller/ca.pem",
            "--data",
            "@asked.json",
        ];
        let (_, said) = self.curl(&[&words[..], &[&url]].concat());
        let body = said
            .strip_suffix(" 200")
            .unwrap_or_else(|| panic!("{said}"));
        let issued: Value = serde_json::from_str(body).unwrap();
        let chain = issued["chain_pem"].as_str().unwrap();
        std::fs::write(self.path("workload.pem"), chain).unwrap();
    }

    /// A policy that lets in one workload alone, by its identity.
    fn allow_front(&self) {
        let policy = self.path("front.yaml");
        let text = "kind: AccessPolicy\nmetadata: { name: all }\n\
                    spec: { allow: [{ from: [{ identities: ['spiffe://isobar.local/ns/shop/sa/front'] }] }] }\n";
        std::fs::write(&policy, text).unwrap();
        let (code, said) = self.isobar(&format!("policy apply -f {}", policy.display()));
        assert_eq!(code, Some(0), "{said}");
    }

    /// Another certificate of this name, by nobody that the mesh believes.
    fn forge(&self) {
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "1",
            ])
            .args([
                "-subj",
                "/CN=x",
                "-addext",
                "subjectAltName=URI:spiffe://isobar.local/node/north-1",
            ])
            .args(["-keyout", "forged-key.pem", "-out", "forged.pem"])
            .current_dir(self.directory.path())
            .output();
        assert!(made.unwrap().status.success());
    }
}

/// nginx as an endpoint, as a peer that asks for certificates, and as one that shows the node's.
fn nginx(site: &Site, [endpoint, asks, shows]: [u16; 3], own: u16) -> Process {
    let root = site.directory.path();
    let user = match std::fs::metadata("/proc/self")
        .map(|meta| std::os::unix::fs::MetadataExt::uid(&meta))
    {
        Ok(0) => "user root;\n",
        _ => "",
    };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {name};\n"))
        .concat();
    let text = format!(
        "{user}daemon off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\
         server {{ listen 127.0.0.1:{endpoint}; location / {{ return 200 'endpoint'; }} }}\n\
         server {{ listen 127.0.0.1:{asks} ssl; ssl_protocols TLSv1.3;\n\
         ssl_certificate proxy/node-chain.pem; ssl_certificate_key proxy/node-key.pem;\n\
         ssl_client_certificate controller/ca.pem; ssl_verify_client on; ssl_verify_depth 3;\n\
         location / {{ return 200 'nginx $ssl_client_verify'; }} }}\n\
         server {{ listen 127.0.0.1:{shows}; location / {{ proxy_pass https://127.0.0.1:{own};\n\
         proxy_ssl_protocols TLSv1.3; proxy_set_header Host cart.example; proxy_ssl_trusted_certificate own.pem;\n\
         proxy_ssl_verify on; proxy_ssl_name cart.example; proxy_ssl_server_name on;\n\
         proxy_ssl_certificate proxy/node-chain.pem; proxy_ssl_certificate_key proxy/node-key.pem; }} }}\n}}\n"
    );
    let file = root.join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("nginx");
    command
        .arg("-p")
        .arg(root)
        .arg("-c")
        .arg(&file)
        .arg("-e")
        .arg("stderr");
    let child = command.stderr(Stdio::inherit()).spawn().unwrap();
    wait_for("nginx", || {
        Path::new(&root.join("nginx.pid")).exists().then_some(())
    });
    Process(child)
}

#[test]
fn openssl_curl_and_nginx_speak_mutual_tls_with_the_mesh() {
    if !has(&[
        ("openssl", "version"),
        ("curl", "--version"),
        ("nginx", "-v"),
    ]) {
        return;
    }
    let ports @ [endpoint, asks, shows] = free_ports();
    let site = Site::start(endpoint);
    site.forge();
    let own = site.port(&site.proxy["listeners"]["own"]);
    let _nginx = nginx(&site, ports, own);
    let ours = [
        "-cert",
        "proxy/node-chain.pem",
        "-cert_chain",
        "proxy/node-chain.pem",
        "-key",
        "proxy/node-key.pem",
    ];
    let forged = ["-cert", "forged.pem", "-key", "forged-key.pem"];

    // openssl at the mesh port: ours is believed and believes; nobody else gets further than the handshake.
    let said = site.s_client(&[&ours[..], &["-verify_return_error"]].concat());
    assert!(
        said.contains("Verify return code: 0 (ok)") && said.contains("ALPN protocol: h2"),
        "{said}"
    );
    assert!(said.contains("TLSv1.3"), "{said}");
    let none: &[&str] = &[];
    for (what, words, alert) in [
        ("no certificate", none, "certificate required"),
        ("another root", &forged[..], "alert"),
        ("TLS 1.2", &["-tls1_2"][..], "protocol version"),
        (
            "TLS 1.1",
            &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"][..],
            "alert",
        ),
        (
            "TLS 1.0",
            &["-tls1", "-cipher", "DEFAULT@SECLEVEL=0"][..],
            "alert",
        ),
    ] {
        // In TLS 1.3 the refusal comes after the client's part of the handshake.
        let said = site.s_client(&[words, &["-ign_eof"]].concat());
        assert!(said.contains(alert), "{what}: {said}");
    }

    // curl at the REST port: by the node's certificate, and by none.
    let url = format!("https://{}/v1/status", site.rest);
    let rest = ["--cacert", "controller/ca.pem", url.as_str()];
    let shown = [
        "--cert",
        "proxy/node-chain.pem",
        "--key",
        "proxy/node-key.pem",
    ];
    assert!(site.curl(&[&rest[..], &shown].concat()).1.ends_with(" 200"));
    assert!(site.curl(&rest).1.ends_with(" 401"));
    let forged = ["--cert", "forged.pem", "--key", "forged-key.pem"];
    assert!(!site.curl(&[&rest[..], &forged].concat()).0);

    // curl to nginx, which shows the node's certificate and asks for one: both ends are ours, neither program is.
    let url = format!("https://127.0.0.1:{asks}/");
    let to_nginx = ["--insecure", url.as_str()];
    assert_eq!(
        site.curl(&[&to_nginx[..], &shown].concat()).1,
        "nginx SUCCESS 200"
    );
    assert!(
        site.curl(&[&to_nginx[..], &forged].concat())
            .1
            .ends_with(" 400")
    );

    // nginx to the proxy's listener, under strict: by the node's certificate it gets in, others do not.
    let policy = site.path("strict.yaml");
    let text = "kind: AccessPolicy\nmetadata: { name: all }\nspec: { mtls: { mode: MODE } }\n";
    let apply = |mode: &str| {
        std::fs::write(&policy, text.replace("MODE", mode)).unwrap();
        let (code, said) = site.isobar(&format!("policy apply -f {}", policy.display()));
        assert_eq!(code, Some(0), "{said}");
    };
    apply("permissive");
    let ingress = format!("http://127.0.0.1:{}/", site.port(&site.proxy["ingress"]));
    let plain = ["-H", "Host: cart.example", ingress.as_str()];
    site.curl_until(&plain, "endpoint 200");
    // Who would be refused is seen before.
    let said = wait_for("a caller in plain text", || {
        assert!(site.curl(&plain).0);
        let (code, said) = site.isobar("check --strict-dry-run");
        (code == Some(1)).then_some(said)
    });
    for word in [
        "shop/cart",
        "permissive",
        "127.0.0.1",
        "north-1",
        "would be refused",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    apply("strict");
    site.curl_until(&plain, " 403");
    let through = format!("http://127.0.0.1:{shows}/");
    assert_eq!(site.curl(&[&through]).1, "endpoint 200");
    let direct = format!("https://127.0.0.1:{own}/");
    let direct = ["--insecure", "-H", "Host: cart.example", direct.as_str()];
    assert!(site.curl(&direct).1.ends_with(" 403"));
    assert!(
        site.curl(&[&direct[..], &shown].concat())
            .1
            .ends_with(" 200")
    );
}

#[test]
fn openssl_curl_and_nginx_take_a_workloads_certificate() {
    if !has(&[
        ("openssl", "version"),
        ("curl", "--version"),
        ("nginx", "-v"),
    ]) {
        return;
    }
    let ports @ [endpoint, asks, _] = free_ports();
    let site = Site::start(endpoint);
    site.enrol_workload();
    let own = site.port(&site.proxy["listeners"]["own"]);
    let _nginx = nginx(&site, ports, own);
    let shown = ["--cert", "workload.pem", "--key", "workload-key.pem"];

    // openssl reads who it is and at which node, and is believed at the mesh port.
    let read = Command::new("openssl")
        .args([
            "x509",
            "-in",
            "workload.pem",
            "-noout",
            "-ext",
            "subjectAltName",
        ])
        .current_dir(site.directory.path())
        .output();
    let read = String::from_utf8(read.unwrap().stdout).unwrap();
    let names = "URI:spiffe://isobar.local/ns/shop/sa/front, DNS:till-3.node.isobar.local";
    assert!(read.contains(names), "{read}");
    let ours = [
        "-cert",
        "workload.pem",
        "-cert_chain",
        "workload.pem",
        "-key",
        "workload-key.pem",
    ];
    let said = site.s_client(&[&ours[..], &["-verify_return_error"]].concat());
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");

    // nginx, which knows the mesh by its root, takes it from curl.
    let url = format!("https://127.0.0.1:{asks}/");
    let to_nginx = ["--insecure", url.as_str()];
    let said = site.curl(&[&to_nginx[..], &shown].concat()).1;
    assert_eq!(said, "nginx SUCCESS 200");

    // A policy lets it in by its identity, and the node's not.
    site.allow_front();
    let direct = format!("https://127.0.0.1:{own}/");
    let direct = ["--insecure", "-H", "Host: cart.example", direct.as_str()];
    site.curl_until(&direct, " 403");
    let said = site.curl(&[&direct[..], &shown].concat()).1;
    assert_eq!(said, "endpoint 200");
    let node = [
        "--cert",
        "proxy/node-chain.pem",
        "--key",
        "proxy/node-key.pem",
    ];
    assert!(
        site.curl(&[&direct[..], &node].concat())
            .1
            .ends_with(" 403")
    );
}

/// The whole way: a token, a certificate, a plan, a moved call, and a policy that knows whose it is.
#[test]
fn a_call_is_its_workloads_from_its_proxy_to_the_endpoint() {
    if !has(&[
        ("openssl", "version"),
        ("curl", "--version"),
        ("nginx", "-v"),
    ]) {
        return;
    }
    let ports @ [endpoint, _, _] = free_ports();
    let site = Site::start(endpoint);
    let own = site.port(&site.proxy["listeners"]["own"]);
    let _nginx = nginx(&site, ports, own);
    let (_front, front) = site.beside("till-3", "shop/front");
    let (_back, back) = site.beside("till-4", "shop/back");
    let to = |url: &str, end: &str| site.curl_until(&["-H", "Host: cart.example", url], end);
    to(&front, "endpoint 200");
    to(&back, "endpoint 200");
    site.allow_front();
    to(&back, " 403");
    to(&front, "endpoint 200");
    let (code, said) = site.isobar("nodes show till-4 -o yaml");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("spiffe://isobar.local/ns/shop/sa/back"),
        "{said}"
    );
}

/// Envoy as a peer that takes the node's identity alone (`asks`), and as one that shows a certificate of the mesh (`shows` the
/// node's, `forges` one of the same name by nobody).
fn envoy(site: &Site, [endpoint, asks, shows, forges]: [u16; 4], own: u16) -> Process {
    let api = "type.googleapis.com/envoy.extensions";
    let at =
        |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let file = |name: &str| json!({ "filename": site.path(name) });
    let tls = |side: &str, pair: [&str; 2], believed: Value, more: Value| {
        let versions = json!({ "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" });
        let mut context = json!({
            "@type": format!("{api}.transport_sockets.tls.v3.{side}TlsContext"),
            "common_tls_context": {
                "tls_params": versions,
                "tls_certificates": [{ "certificate_chain": file(pair[0]), "private_key": file(pair[1]) }],
                "validation_context": believed,
            },
        });
        let (context_fields, more) = (
            context.as_object_mut().unwrap(),
            more.as_object().unwrap().clone(),
        );
        context_fields.extend(more);
        json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
    };
    let (node, forged) = (
        ["proxy/node-chain.pem", "proxy/node-key.pem"],
        ["forged.pem", "forged-key.pem"],
    );
    let san =
        |kind: &str, exact: &str| json!([{ "san_type": kind, "matcher": { "exact": exact } }]);
    let listener = |name: &str, port: u16, to: &str, tls: Option<Value>| {
        let router = json!({ "name": "router", "typed_config": { "@type": format!("{api}.filters.http.router.v3.Router") } });
        let routes = json!([{ "match": { "prefix": "/" }, "route": { "cluster": to } }]);
        let manager = json!({
            "@type": format!("{api}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": name, "http_filters": [router],
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
        });
        let mut chain = json!({ "filters": [{ "name": "http", "typed_config": manager }] });
        if let Some(tls) = tls {
            chain["transport_socket"] = tls;
        }
        json!({ "name": name, "address": at(port), "filter_chains": [chain] })
    };
    let cluster = |name: &str, port: u16, tls: Option<Value>| {
        let members = json!([{ "lb_endpoints": [{ "endpoint": { "address": at(port) } }] }]);
        let assignment = json!({ "cluster_name": name, "endpoints": members });
        let mut cluster = json!({ "name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": assignment });
        if let Some(tls) = tls {
            cluster["transport_socket"] = tls;
        }
        cluster
    };
    let ours = json!({
        "trusted_ca": file("controller/ca.pem"),
        "match_typed_subject_alt_names": san("URI", "spiffe://isobar.local/node/north-1"),
    });
    let theirs = || json!({ "trusted_ca": file("own.pem"), "match_typed_subject_alt_names": san("DNS", "cart.example") });
    let asking = tls(
        "Downstream",
        node,
        ours,
        json!({ "require_client_certificate": true }),
    );
    let showing = |pair| tls("Upstream", pair, theirs(), json!({ "sni": "cart.example" }));
    let config = json!({ "static_resources": {
        "listeners": [
            listener("asks", asks, "endpoint", Some(asking)),
            listener("shows", shows, "as_node", None),
            listener("forges", forges, "as_nobody", None),
        ],
        "clusters": [
            cluster("endpoint", endpoint, None),
            cluster("as_node", own, Some(showing(node))),
            cluster("as_nobody", own, Some(showing(forged))),
        ],
    }});
    let path = site.path("envoy.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let mut command = Command::new("envoy");
    command.arg("-c").arg(&path).args([
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
    ]);
    Process(command.stderr(Stdio::inherit()).spawn().unwrap())
}

#[test]
fn envoy_speaks_mutual_tls_with_the_mesh() {
    if !has(&[
        ("openssl", "version"),
        ("curl", "--version"),
        ("nginx", "-v"),
        ("envoy", "--version"),
    ]) {
        return;
    }
    let [endpoint, to_nginx, from_nginx, asks, shows, forges] = free_ports();
    let site = Site::start(endpoint);
    site.forge();
    let own = site.port(&site.proxy["listeners"]["own"]);
    let _nginx = nginx(&site, [endpoint, to_nginx, from_nginx], own);
    let _envoy = envoy(&site, [endpoint, asks, shows, forges], own);
    let policy = site.path("strict.yaml");
    let text = "kind: AccessPolicy\nmetadata: { name: all }\nspec: { mtls: { mode: strict } }\n";
    std::fs::write(&policy, text).unwrap();
    let (code, said) = site.isobar(&format!("policy apply -f {}", policy.display()));
    assert_eq!(code, Some(0), "{said}");
    let ingress = format!("http://127.0.0.1:{}/", site.port(&site.proxy["ingress"]));
    site.curl_until(&["-H", "Host: cart.example", &ingress], " 403");

    // Envoy as a client of ours: by a certificate of our authority it gets in under strict, by another of the same name it
    // does not get a connection.
    let shown = format!("http://127.0.0.1:{shows}/");
    site.curl_until(&["-H", "Host: cart.example", &shown], "endpoint 200");
    let forged = format!("http://127.0.0.1:{forges}/");
    site.curl_until(&["-H", "Host: cart.example", &forged], " 503");

    // Envoy as a server that takes one SPIFFE identity below our root: the node's certificate is taken, others are not.
    let url = format!("https://127.0.0.1:{asks}/");
    let to_envoy = ["--insecure", url.as_str()];
    let ours = [
        "--cert",
        "proxy/node-chain.pem",
        "--key",
        "proxy/node-key.pem",
    ];
    assert_eq!(
        site.curl(&[&to_envoy[..], &ours].concat()).1,
        "endpoint 200"
    );
    let forged = ["--cert", "forged.pem", "--key", "forged-key.pem"];
    for others in [&forged[..], &[]] {
        let (got, said) = site.curl(&[&to_envoy[..], others].concat());
        assert!(!got, "{said}");
    }
}
