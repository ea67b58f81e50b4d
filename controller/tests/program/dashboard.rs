//! The dashboard: what is served, and what a real browser makes of it with a real controller behind.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use isobar_controller::program::Addresses;
use isobar_controller::secret::sha256;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::browser::{Browser, has_chromium};
use crate::fleet::{ALPS, Fleet};
use crate::mesh::{Mesh, config, rest};

/// Longest that the page may be, compressed.
const PAGE_LEN_MAX: usize = 300_000;
/// What would be done if a name became markup.
const HOSTILE: &str = "<img src=x onerror=document.title='owned'>";

async fn open() -> Mesh {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.period_ms = 200;
    Mesh::start_with(directory, config).await
}

async fn guarded() -> (Mesh, String) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    (config.rest_open, config.rest_insecure, config.period_ms) = (false, true, 200);
    let mesh = Mesh::start_with(directory, config).await;
    let admin = mesh.file("admin-token").trim().to_owned();
    (mesh, admin)
}

fn address(mesh: &Mesh) -> String {
    format!("http://{}/", mesh.addresses().rest)
}

/// A GET with this header: what the page is sent with, and its bytes.
async fn get(
    addresses: Addresses,
    path: &str,
    header: (&str, &str),
) -> (http::response::Parts, Bytes) {
    let socket = TcpStream::connect(addresses.rest).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "controller.example")
        .header(header.0, header.1)
        .body(Full::new(Bytes::new()));
    let (head, body) = sender
        .send_request(request.unwrap())
        .await
        .unwrap()
        .into_parts();
    (head, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn the_page_is_small_and_closed_to_the_world() {
    let (mesh, _) = guarded().await;
    let (head, body) = get(mesh.addresses(), "/", ("accept-encoding", "gzip")).await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.headers["content-encoding"], "gzip");
    assert!(body.len() <= PAGE_LEN_MAX, "{} bytes", body.len());
    println!("the dashboard is {} bytes, compressed", body.len());
    let policy = head.headers["content-security-policy"].to_str().unwrap();
    for part in [
        "default-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.split("; ").any(|rule| rule == part), "{policy}");
    }
    assert!(
        !policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"),
        "{policy}"
    );

    let mut page = String::new();
    flate2::read::GzDecoder::new(&body[..])
        .read_to_string(&mut page)
        .unwrap();
    let notices = page.find("<!--").unwrap()..page.find("-->").unwrap();
    assert!(page[notices.clone()].contains("Mike Bostock") && page.contains("Leon Sorokin"));
    page.replace_range(notices, "");
    // An address of XML's is a name and fetches nothing.
    let rest = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http://", "https://", "//cdn", "@import", "url("] {
        let found = rest
            .find(outside)
            .map(|at| rest[at..].chars().take(60).collect::<String>());
        assert_eq!(found, None, "the page names {outside}");
    }

    let tag = head.headers["etag"].to_str().unwrap();
    let (again, body) = get(mesh.addresses(), "/dashboard", ("if-none-match", tag)).await;
    assert_eq!(
        (again.status, body.len()),
        (StatusCode::NOT_MODIFIED, 0),
        "{tag}"
    );
    let (plain, said) = get(mesh.addresses(), "/", ("accept-encoding", "identity")).await;
    assert_eq!(
        plain.status,
        StatusCode::NOT_ACCEPTABLE,
        "{}",
        String::from_utf8_lossy(&said)
    );
    let (closed, _) = get(mesh.addresses(), "/v1/picture", ("accept", "*/*")).await;
    assert_eq!(closed.status, StatusCode::UNAUTHORIZED);
    mesh.stop().await;
}

#[test]
fn what_is_served_was_built_from_these_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboard");
    let built = std::fs::read_to_string(root.join("dist/sources.txt")).unwrap();
    let mut sources = 0;
    for line in built.lines() {
        let (hash, path) = line.split_once("  ").unwrap();
        let text = std::fs::read(root.join(path)).unwrap();
        assert_eq!(
            sha256(&text),
            hash,
            "{path} changed since: npm ci && npm run build"
        );
        sources += 1;
    }
    let count = |directory: &str| std::fs::read_dir(root.join(directory)).unwrap().count();
    // The folder of views is one entry of its parent.
    assert_eq!(
        sources,
        count("src") - 1 + count("src/views") + 3,
        "npm ci && npm run build"
    );
}

#[tokio::test]
async fn a_picture_has_what_a_map_needs_and_is_not_sent_twice() {
    let mesh = open().await;
    let empty = rest(mesh.addresses(), Method::GET, "/v1/picture", "")
        .await
        .1;
    assert_eq!(empty["nodes"]["node"], json!([]));
    let (head, _) = get(mesh.addresses(), "/v1/whoami", ("accept", "*/*")).await;
    // Where nobody is asked who they are, a name that a web page could take is refused.
    assert_eq!(head.status, StatusCode::MISDIRECTED_REQUEST);
    let (_, me) = mesh.rest(Method::GET, "/v1/whoami", "").await;
    assert_eq!(
        me,
        json!({ "name": "anonymous", "role": "admin", "namespaces": [] })
    );
    for (query, detail) in [
        ("s?limit=11", "must be from 1 to 10"),
        ("s?before=yesterday", "must be milliseconds since 1970"),
        ("?service=shop", "must be written namespace/name"),
        ("?service=a/b", "names a service that there is not"),
        ("?x=1", "there is no parameter"),
    ] {
        let (status, said) = mesh
            .rest(Method::GET, &format!("/v1/picture{query}"), "")
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(
            said["detail"].as_str().unwrap().contains(detail),
            "{query} {said}"
        );
    }
    let fleet = Fleet::start(&mesh.door(), &ALPS[..3]).await;
    let picture = loop {
        let (_, picture) = mesh
            .rest(Method::GET, "/v1/picture?service=shop/cart", "")
            .await;
        if picture["arcs"]["rps"]
            .as_array()
            .is_some_and(|arcs| !arcs.is_empty())
        {
            break picture;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        picture["nodes"]["node"],
        json!(["genoa", "milan", "turin"]),
        "by name"
    );
    assert_eq!(picture["nodes"]["lat_deg"][1], 45.464);
    assert_eq!(picture["nodes"]["region"][1], "alps");
    assert_eq!(
        picture["arcs"]["from"][0], 1,
        "milan has too much: {picture}"
    );
    assert_eq!(picture["services"][0]["service"], "shop/cart");
    fleet.leave().await;
    mesh.stop().await;
}

/// Signs in with a token.
fn sign_in(browser: &mut Browser, token: &str) {
    let token = Value::from(token);
    browser.until("document.querySelector('dialog.signin input')");
    browser.eval(&format!(
        "document.querySelector('dialog.signin input').value = {token}"
    ));
    browser.click("dialog.signin button", "Sign in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_token_is_asked_for_one_and_told_what_to_do() {
    if !has_chromium() {
        return;
    }
    let (mesh, admin) = guarded().await;
    let credential = async |method: Method, path: &str, asked: Value| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "controller.example")
            .header("authorization", format!("Bearer {admin}"))
            .body(Full::new(Bytes::from(asked.to_string())));
        crate::mesh::send(mesh.addresses(), request.unwrap())
            .await
            .1
    };
    let asked = json!({ "name": "wall", "role": "viewer" });
    let made = credential(Method::POST, "/v1/credentials", asked).await;
    let viewer = made["token"].as_str().unwrap();
    let mut browser = Browser::open(1280, 800);
    browser.go(&address(&mesh));
    browser.until_text("This controller asks for a token");
    browser.picture("sign-in");
    sign_in(&mut browser, "credential_wall_nonsense");
    browser.until_text("has expired, or was revoked");
    sign_in(&mut browser, viewer);
    browser.until("document.querySelector('.pill.ok') && !document.querySelector('dialog')");
    browser.until_text("wall · viewer");
    let kept = browser.eval("JSON.stringify([{ ...sessionStorage }, { ...localStorage }, document.cookie, location.href])");
    let kept: Value = serde_json::from_str(kept.as_str().unwrap()).unwrap();
    assert_eq!(kept[0], json!({ "isobar-token": viewer }));
    assert_eq!((&kept[1], &kept[2]), (&json!({}), &json!("")));
    assert!(!kept[3].as_str().unwrap().contains(viewer));
    // It lasts over a reload of the tab, and a viewer changes nothing.
    browser.eval("location.hash = '#policies'");
    browser.until("document.querySelector('textarea')");
    browser.call("Page.reload", json!({}));
    browser.until_text("needs the role operator");
    browser.until("[...document.querySelectorAll('.tools button')].every((b) => b.disabled)");
    credential(Method::DELETE, "/v1/credentials/wall", Value::Null).await;
    browser.until_text("has expired, or was revoked");
    assert_eq!(browser.eval("sessionStorage.length"), 0);
    sign_in(&mut browser, &admin);
    browser.until_text("admin · admin");
    browser
        .until("[...document.querySelectorAll('.tools button')].some((b) => b.textContent === 'New…' && !b.disabled)");
    browser.check();
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_found_with_keys_alone_and_explained_in_words() {
    if !has_chromium() {
        return;
    }
    let mesh = open().await;
    let fleet = Fleet::start(&mesh.door(), &ALPS).await;
    let mut browser = Browser::open(1440, 900);
    browser.prefer(&[("prefers-color-scheme", "dark")]);
    browser.go(&address(&mesh));
    browser.until("document.querySelector('.figures')?.innerText.includes('arc')");
    browser.press("Tab");
    browser.until("document.activeElement.textContent === 'Skip to the view'");
    browser.press("Enter");
    browser.press("Tab");
    browser.until("document.activeElement.getAttribute('aria-roledescription') === 'map'");
    // The fullest node comes first; from there to whoever is in that direction.
    browser.press("ArrowRight");
    browser.until("document.querySelector('.panel:not([hidden]) h2')");
    browser.press("Escape");
    browser.until("document.querySelector('.panel').hidden");
    browser.eval("location.hash = '#nodes'");
    browser.until("document.querySelectorAll('.rows .row').length === 14");
    browser.press("/");
    browser.call("Input.insertText", json!({ "text": "milan" }));
    browser.until("document.querySelectorAll('.rows .row').length === 1");
    browser.eval("document.querySelector('.table').focus()");
    browser.press("ArrowDown");
    browser.press("Enter");
    browser.until(
        "location.hash === '#map' && document.querySelector('.panel h2').textContent === 'milan'",
    );
    browser.until_text("requests/s enter here");
    browser.until_text("Of what enters,");
    browser.until_text("No policy was written for this service, so the defaults decide.");
    browser.until("document.querySelectorAll('.why table tbody tr').length === 8");
    browser.until("document.querySelector('.why').innerText.includes('Why not others')");
    browser.until("document.querySelectorAll('.panel .uplot canvas').length === 1");
    let said = browser.eval("document.querySelector('.spoken').textContent");
    assert!(
        said.as_str().unwrap().contains("of its capacity"),
        "{said} is read aloud"
    );
    fleet.demand("turin", 190);
    browser
        .until("/^([5-9]|\\d\\d) s/.test(document.querySelector('.scrubber .since').textContent)");
    browser.eval("document.activeElement.blur()");
    browser.picture("map-dark");
    browser.prefer(&[("prefers-color-scheme", "light")]);
    browser.until("document.documentElement.dataset.theme === 'light'");
    browser.picture("map-light");
    // Back in time, and to now again.
    browser.eval("document.querySelector('.scrubber input').focus()");
    browser.press("ArrowLeft");
    browser.until("document.querySelector('.overview.past') && document.querySelector('.when').textContent.includes('ago')");
    browser.click(".scrubber button", "Live");
    browser.until("!document.querySelector('.overview.past')");
    // Draining is tried out first.
    browser.click(".actions button", "Drain");
    browser.until("document.querySelector('dialog .difference')");
    browser.picture("drain");
    browser.click("dialog button", "Drain");
    browser.until("document.querySelector('.panel .badge').textContent === 'drained'");
    browser.check();
    fleet.leave().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_tried_out_and_never_written_over_somebody_elses_change() {
    if !has_chromium() {
        return;
    }
    let mesh = open().await;
    let fleet = Fleet::start(&mesh.door(), &ALPS).await;
    let mut browser = Browser::open(1280, 900);
    browser.go(&format!("{}#policies", address(&mesh)));
    browser.click("button", "New…");
    let write = |text: &str| {
        let text = Value::from(text);
        format!(
            "(() => {{ const t = document.querySelector('textarea'); t.value = {text}; t.dispatchEvent(new Event('input')); }})()"
        )
    };
    browser.eval(&write("{"));
    browser.click(".editor button", "Check");
    browser.until_text("This is not JSON");
    browser.eval(&write(
        r#"{"kind": "WeightPolicy", "metadata": {"name": "all"}, "spec": {"move_max": 7}}"#,
    ));
    browser.click(".editor button", "Check");
    browser
        .until("document.querySelector('.found .error code')?.textContent === '#/spec/move_max'");
    assert_eq!(
        browser.eval("[...document.querySelectorAll('.editor .primary')].every((b) => b.disabled)"),
        true
    );
    browser.eval(&write(r#"{"kind": "WeightPolicy", "metadata": {"name": "all"}, "spec": {"algorithm": "convex", "move_max": 0.1}}"#));
    browser.click(".editor button", "Check");
    browser.until("document.querySelector('.found .difference .changed')");
    browser.picture("policy");
    browser.click(".editor button", "Save");
    browser.until_text("is saved and in force");
    // Somebody else writes meanwhile.
    let other =
        r#"{"kind": "WeightPolicy", "metadata": {"name": "all"}, "spec": {"move_max": 0.5}}"#;
    let (status, _) = mesh
        .rest(Method::PUT, "/v1/weight-policies/all", other)
        .await;
    assert_eq!(status, StatusCode::OK);
    browser.eval(&write(
        r#"{"kind": "WeightPolicy", "metadata": {"name": "all"}, "spec": {"move_max": 0.2}}"#,
    ));
    browser.click(".editor button", "Check");
    browser.until_text("Somebody changed it since you read it");
    browser.click(".found button", "Read it again");
    browser.until("document.querySelector('textarea').value.includes('0.5')");
    browser.click(".editor button", "Delete…");
    browser.until("document.querySelector('dialog .found .difference, dialog .found .good')");
    browser.click("dialog button", "Delete");
    browser.until_text("No WeightPolicy is written.");
    let (status, _) = mesh.rest(Method::GET, "/v1/weight-policies/all", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    browser.eval("location.hash = '#events'");
    browser.until_text("WeightPolicy all was deleted by anonymous");
    browser.picture("events");
    browser.eval("(() => { const s = document.querySelector('input[type=search]'); s.value = 'milan'; s.dispatchEvent(new Event('input')); })()");
    browser.until_text("milan is connected, version 0.0.0");
    browser.eval("location.hash = '#certificates'");
    browser.until_text("signs certificates");
    browser.picture("certificates");
    browser.check();
    fleet.leave().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_controller_is_gone_the_last_picture_stays_with_its_age() {
    if !has_chromium() {
        return;
    }
    let mesh = open().await;
    let fleet = Fleet::start(&mesh.door(), &ALPS).await;
    let mut browser = Browser::open(1280, 800);
    // What the controller has seen before the page was opened.
    let oldest_ms = loop {
        let (_, past) = mesh.rest(Method::GET, "/v1/pictures", "").await;
        let items = past["items"].as_array().unwrap();
        if items.len() > 1 {
            let before = items[1]["at_ms"].as_u64().unwrap();
            assert!(
                before < items[0]["at_ms"].as_u64().unwrap(),
                "the newest first"
            );
            break items.last().unwrap()["at_ms"].as_u64().unwrap();
        }
        tokio::task::yield_now().await;
    };
    // A clock three hours ahead.
    browser.before_each_page("const now = Date.now; Date.now = () => now() + 3 * 3600 * 1000;");
    browser.go(&address(&mesh));
    browser.until("document.querySelector('.figures')?.innerText.includes('14')");
    browser.until_text("This browser's clock is 3 h ahead of the controller's");
    browser.until(&format!(
        "Number(document.querySelector('.scrubber input').min) <= {oldest_ms}"
    ));
    let when = browser.eval("document.querySelector('.when').textContent");
    let there = browser.eval("new Date(now()).toLocaleTimeString('en-GB').slice(0, 2)");
    let hour = there.as_str().unwrap();
    let ahead = browser.eval("new Date(Date.now()).toLocaleTimeString('en-GB').slice(0, 2)");
    let when = when.as_str().unwrap();
    assert!(!when.starts_with(ahead.as_str().unwrap()), "{when} {hour}");
    let listen = mesh.addresses().rest;
    fleet.leave().await;
    mesh.shutdown.cancel();
    let Mesh {
        directory, program, ..
    } = mesh;
    program.wait().await.unwrap();
    browser.until("document.querySelector('.pill.gone')");
    browser.until_text("The controller is gone: the controller does not answer.");
    browser.until_text("Shown is the picture of");
    browser.until(
        "/, 1\\d s old|, [3-9]\\.\\d s old/.test(document.querySelector('.banner').textContent)",
    );
    assert_eq!(
        browser.eval("document.querySelector('.figures').innerText.includes('14')"),
        true
    );
    browser.picture("gone");
    let mut config = config(directory.path());
    (config.rest_listen, config.period_ms) = (listen, 200);
    let mesh = Mesh::start_with(directory, config).await;
    browser.until("document.querySelector('.pill.ok')");
    browser.until("!document.querySelector('.banner').textContent.includes('gone')");
    browser.check();
    mesh.stop().await;
}

/// A picture of so many nodes and arcs between neighbours on a grid; the first node has a hostile name.
fn large(nodes: usize, arcs: usize) -> Value {
    let column = |value: &dyn Fn(usize) -> Value| (0..nodes).map(value).collect::<Vec<Value>>();
    let across = (nodes as f64).sqrt() as usize;
    let name = |n: usize| match n {
        0 => json!(HOSTILE),
        n => json!(format!("edge-{n:05}")),
    };
    let jitter = |n: usize| ((n * 7919) % 100) as f64 * 0.002;
    let near = [
        1,
        across,
        across + 1,
        across - 1,
        2,
        across + 2,
        3,
        2 * across,
    ];
    json!({
        "plan": { "epoch": 1, "generation": 9 }, "period_ms": 1000,
        "nodes": {
            "node": column(&name),
            "lat_deg": column(&|n| json!(40.0 + (n / across) as f64 * 0.3 + jitter(n))),
            "lon_deg": column(&|n| json!((n % across) as f64 * 0.4 + jitter(n * 3))),
            "site": column(&|n| json!(if n == 1 { HOSTILE } else { "site" })),
            "region": column(&|_| Value::Null), "presence": column(&|_| json!("live")),
            "age_ms": column(&|_| json!(300)), "cordoned": column(&|_| json!(false)), "drained": column(&|_| json!(false)),
            "cpu_ratio": column(&|_| Value::Null),
            "demand_rps": column(&|n| json!((n % 130) as f64)), "capacity_rps": column(&|_| json!(100.0)),
            "load_rps": column(&|n| json!((n % 110) as f64)), "moved_in_rps": column(&|_| json!(0.0)),
            "moved_out_rps": column(&|_| json!(1.0)), "shed_rps": column(&|_| json!(0.0)), "left_out": 0,
        },
        "arcs": {
            "from": (0..arcs).map(|a| a % nodes).collect::<Vec<_>>(),
            "to": (0..arcs).map(|a| (a % nodes + near[(a / nodes) % near.len()]) % nodes).collect::<Vec<_>>(),
            "rps": (0..arcs).map(|a| 1 + a % 40).collect::<Vec<_>>(), "left_out": 0,
        },
        "services": [],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_nodes_are_drawn_and_listed_and_hostile_names_are_text() {
    if !has_chromium() {
        return;
    }
    let mesh = open().await;
    let mut browser = Browser::open(1440, 900);
    browser.stub("/v1/picture", &large(1_000, 5_000));
    browser.go(&address(&mesh));
    browser.until("document.querySelector('.figures')?.innerText.includes('5,000 arcs')");
    // What people see: times from one frame to the next, over four pictures.
    browser.eval("window.frames_ = []; { let last = performance.now(); const each = (now) => { frames_.push(now - last); last = now; requestAnimationFrame(each); }; requestAnimationFrame(each); }");
    browser.until("frames_.length > 200");
    let frames = browser.eval("(() => { const t = frames_.slice(1).sort((a, b) => a - b); return [0.5, 0.95, 0.99, 1].map((q) => t[Math.min(t.length - 1, Math.floor(q * t.length))].toFixed(1)).join(' / '); })()");
    println!(
        "1,000 nodes and 5,000 arcs: {frames} ms from frame to frame (median, p95, p99, longest)"
    );
    browser.picture("thousand");
    browser.press("?");
    browser.until_text("The map took");
    println!(
        "{}",
        browser.eval("document.querySelector('dialog p').textContent")
    );
    browser.press("Escape");

    browser.stub("/v1/picture", &large(10_000, 100));
    browser.eval("location.hash = '#nodes'");
    browser.until_text("10,000 nodes");
    assert_eq!(
        browser.eval("document.querySelector('.table').getAttribute('aria-rowcount')"),
        "10001"
    );
    let rows = browser.eval("document.querySelectorAll('.rows .row').length");
    assert!(rows.as_u64().unwrap() < 60, "{rows} rows are elements");
    browser.eval("document.querySelector('.table').focus()");
    browser.press("ArrowDown");
    browser.press("End");
    browser
        .until("document.querySelector('.row.active')?.getAttribute('aria-rowindex') === '10001'");
    let search = |text: &str| {
        let text = Value::from(text);
        format!(
            "(() => {{ const s = document.querySelector('input[type=search]'); s.value = {text}; s.dispatchEvent(new Event('input')); }})()"
        )
    };
    browser.eval(&search("edge-07"));
    browser.until_text("1,000 of 10,000 nodes");
    browser.eval(&search("<img"));
    browser.until_text("2 of 10,000 nodes");
    let hostile = Value::from(HOSTILE);
    browser.until(&format!(
        "document.querySelector('.rows').textContent.includes({hostile})"
    ));
    browser.eval("document.querySelector('.rows .row').click()");
    browser.until("!document.querySelector('.panel').hidden");
    assert_eq!(browser.eval("document.querySelectorAll('img').length"), 0);
    assert_ne!(browser.eval("document.title"), "owned");
    browser.check();
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replays_are_compared_and_files_that_are_none_are_refused() {
    if !has_chromium() {
        return;
    }
    let mesh = open().await;
    let run = |policy: &str, seed: u64, failures: u64, p99_ms: f64| {
        json!({ "policy": policy, "seed": seed, "requests": 10_000, "failures": failures, "shed": 0, "p50_ms": 12.5,
            "p99_ms": p99_ms, "hot_p99_ms": p99_ms * 2.0, "moved_share": 0.043, "hot_requests": 100, "hot_failures": 1,
            "reversals": 0, "settle_s": null, "max_planned_utilisation": 0.95 })
    };
    let write = |name: &str, text: &str| {
        let path = mesh.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let first = json!([
        run("home", 1, 250, 993.0),
        run("convex", 1, 0, 110.0),
        run("convex", 2, 0, 98.0)
    ]);
    let first = write("first.json", &first.to_string());
    let second = write(
        "second.json",
        &json!([run("convex", 1, 0, 104.0), run(HOSTILE, 1, 9, 400.0)]).to_string(),
    );
    let wrong = write("wrong.json", r#"{"hello": 1}"#);
    let mut browser = Browser::open(1280, 900);
    browser.go(&format!("{}#replays", address(&mesh)));
    let input = |letter: &str| format!("input[aria-label='Replay {letter}']");
    browser.until(&format!("document.querySelector(\"{}\")", input("A")));
    browser.choose_files(&input("A"), &[&wrong]);
    browser
        .until_text("wrong.json: this has no list of runs; isobar replay --json FILE writes one");
    browser.choose_files(&input("A"), &[&first]);
    browser.choose_files(&input("B"), &[&second]);
    browser.until_text("first.json: 2 policies, 3 runs");
    browser.until_text("second.json: 2 policies, 2 runs");
    browser.until("document.querySelectorAll('.result table thead th').length === 5");
    // The mean of two seeds.
    browser.until_text("104 ms");
    browser.picture("replays");
    assert_eq!(browser.eval("document.querySelectorAll('img').length"), 0);
    browser.check();
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_phone_nothing_runs_over_and_everything_has_a_name() {
    if !has_chromium() {
        return;
    }
    let mesh = open().await;
    let fleet = Fleet::start(&mesh.door(), &ALPS).await;
    let mut browser = Browser::open(390, 844);
    browser.size(390, 844, true);
    browser.prefer(&[
        ("prefers-reduced-motion", "reduce"),
        ("prefers-color-scheme", "light"),
    ]);
    browser.go(&address(&mesh));
    browser.until("document.querySelector('.figures')?.innerText.includes('14')");
    let views = [
        "map",
        "nodes",
        "services",
        "policies",
        "certificates",
        "events",
        "replays",
    ];
    for view in views {
        browser.eval(&format!("location.hash = '#{view}'"));
        browser.until(&format!(
            "document.querySelector('nav a[aria-current]').dataset.view === '{view}'"
        ));
        if view == "nodes" {
            browser.until("document.querySelectorAll('.rows .row').length > 0");
        }
        assert_eq!(
            browser.eval("document.documentElement.scrollWidth"),
            390,
            "{view}"
        );
        let nameless = browser.eval(NAMELESS);
        assert_eq!(nameless, json!([]), "{view}");
        browser.picture(&format!("phone-{view}"));
    }
    browser.eval("document.querySelector('nav a').click()");
    browser.until("document.querySelector('.map')");
    browser.eval("document.querySelector('.map').focus()");
    // The node that has too much: what is said of it is the longest text.
    let selected = "document.querySelector('.panel h2')?.textContent";
    for _ in ALPS {
        browser.press("ArrowRight");
        browser.until(&format!("{selected} !== undefined"));
        if browser.eval(selected) == "milan" {
            break;
        }
    }
    browser.until_text("Of what enters,");
    assert_eq!(browser.eval("document.documentElement.scrollWidth"), 390);
    browser.picture("phone-node");
    for theme in ["light", "dark"] {
        browser.until(&format!(
            "document.documentElement.dataset.theme === '{theme}'"
        ));
        let faint = browser.eval(FAINT);
        assert_eq!(faint, json!([]), "{theme}");
        browser.click("button[aria-label='Light or dark']", "");
    }
    browser.check();
    fleet.leave().await;
    mesh.stop().await;
}

/// Controls that a screen reader could not name.
const NAMELESS: &str = "[...document.querySelectorAll('button, a, input, select, textarea, [role=table], [role=application], dialog')]
    .filter((e) => !e.getAttribute('aria-label') && !e.textContent.trim() && !(e.labels?.length > 0)).map((e) => e.outerHTML)";

/// Pairs of ink and ground whose contrast is below 4.5 (WCAG 2.2, 1.4.3).
const FAINT: &str = "(() => {
    const style = getComputedStyle(document.documentElement);
    const light = (name) => {
        const hex = style.getPropertyValue(name).trim().slice(1);
        const parts = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
            .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const pairs = ['--text', '--muted', '--accent', '--good', '--warn', '--bad'].flatMap((ink) => ['--bg', '--panel', '--raised'].map((ground) => [ink, ground]));
    pairs.push(['--accent-ink', '--accent']);
    const contrast = ([a, b]) => { const [x, y] = [light(a), light(b)]; return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05); };
    return pairs.filter((pair) => !(contrast(pair) >= 4.5)).map((pair) => `${pair.join(' on ')}: ${contrast(pair).toFixed(2)}`);
})()";
