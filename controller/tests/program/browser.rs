//! A real browser: Debian's Chromium, driven by the DevTools protocol over a pair of pipes.
//!
//! Chromium reads commands from descriptor 3 and writes to 4 (`--remote-debugging-pipe`), JSON messages that end with a
//! zero byte. A shell puts our pipes there.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::mesh::PATIENCE;

const FLAGS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
    "--remote-debugging-pipe",
];

/// Whether Chromium is there; that it is not is a failure where all programs are required.
pub fn has_chromium() -> bool {
    let there = Command::new("chromium").arg("--version").output().is_ok();
    let required = std::env::var("ISOBAR_TEST_REQUIRE").is_ok_and(|all| all == "all");
    assert!(there || !required, "chromium is required and not there");
    if !there {
        println!("skipped: chromium is not there (apt-get install chromium)");
    }
    there
}

/// One browser with one page; it ends when dropped.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    number: u64,
    /// Exceptions, and what broke the page's policy.
    pub faults: Vec<String>,
    /// Answers that are given in the controller's place: a part of the address, and JSON.
    pub stubs: Vec<(String, String)>,
    paused: VecDeque<Value>,
    _directory: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    /// A page of so many pixels that shows nothing yet.
    pub fn open(width: u32, height: u32) -> Browser {
        let directory = tempfile::tempdir().unwrap();
        let profile = format!("--user-data-dir={}", directory.path().display());
        let script = "exec chromium \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null";
        let mut child = Command::new("sh")
            .args(["-c", script, "sh", &profile])
            .args(FLAGS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (send, messages) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while output
                .read_until(0, &mut message)
                .is_ok_and(|read| read > 0)
            {
                message.pop();
                let value = serde_json::from_slice(&message).unwrap();
                if send.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Browser {
            child,
            commands,
            messages,
            session: None,
            number: 0,
            faults: Vec::new(),
            stubs: Vec::new(),
            paused: VecDeque::new(),
            _directory: directory,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let asked = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", asked);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "DOM"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.size(width, height, false);
        browser
    }

    /// Sends a command and waits for its answer.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        let number = self.send(method, parameters);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left);
            let message = message.unwrap_or_else(|why| panic!("{method}: {why}"));
            if message["id"] == number {
                let error = &message["error"];
                assert!(error.is_null(), "{method}: {error}");
                self.answer_paused();
                return message["result"].clone();
            }
            self.hear(message);
        }
    }

    fn send(&mut self, method: &str, parameters: Value) -> u64 {
        self.number += 1;
        let mut command = json!({ "id": self.number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        self.commands
            .write_all(format!("{command}\0").as_bytes())
            .unwrap();
        self.number
    }

    fn hear(&mut self, message: Value) {
        let parameters = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => {
                self.faults.push(parameters["exceptionDetails"].to_string());
            }
            // What the network refuses is part of some tests; what the policy refuses is of none.
            "Log.entryAdded" if parameters["entry"]["source"] != "network" => {
                self.faults.push(parameters["entry"].to_string());
            }
            "Fetch.requestPaused" => self.paused.push_back(parameters.clone()),
            _ => {}
        }
    }

    fn answer_paused(&mut self) {
        while let Some(paused) = self.paused.pop_front() {
            let url = paused["request"]["url"].as_str().unwrap_or_default();
            let stub = self.stubs.iter().find(|stub| url.contains(&stub.0));
            let id = &paused["requestId"];
            let (method, parameters) = match stub {
                Some((_, body)) => {
                    let headers = json!([{ "name": "content-type", "value": "application/json" },
                        { "name": "date", "value": "Tue, 15 Nov 2022 12:45:26 GMT" }]);
                    let body = base64(body.as_bytes());
                    let answer = json!({ "requestId": id, "responseCode": 200, "responseHeaders": headers, "body": body });
                    ("Fetch.fulfillRequest", answer)
                }
                None => ("Fetch.continueRequest", json!({ "requestId": id })),
            };
            // Nobody waits for its answer: it is heard and passed over.
            self.send(method, parameters);
        }
    }

    /// Requests whose address has `part` are answered with this JSON from now on.
    pub fn stub(&mut self, part: &str, body: &Value) {
        if self.stubs.is_empty() {
            let patterns = json!([{ "urlPattern": "*/v1/*" }]);
            self.call("Fetch.enable", json!({ "patterns": patterns }));
        }
        self.stubs.retain(|stub| stub.0 != part);
        self.stubs.push((part.to_owned(), body.to_string()));
    }

    pub fn size(&mut self, width: u32, height: u32, phone: bool) {
        let scale = if phone { 2 } else { 1 };
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// What the browser's owner prefers, as in a media query.
    pub fn prefer(&mut self, wishes: &[(&str, &str)]) {
        let features = wishes.iter().map(|w| json!({ "name": w.0, "value": w.1 }));
        let features: Vec<Value> = features.collect();
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        );
    }

    pub fn go(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// Runs before each page's own script.
    pub fn before_each_page(&mut self, script: &str) {
        let source = json!({ "source": script });
        self.call("Page.addScriptToEvaluateOnNewDocument", source);
    }

    /// What an expression is; promises are waited for.
    pub fn eval(&mut self, expression: &str) -> Value {
        let asked =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let said = self.call("Runtime.evaluate", asked);
        let exception = &said["exceptionDetails"];
        assert!(exception.is_null(), "{expression}: {exception}");
        said["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        // A page that is being loaded has no body yet, a view that is being changed lacks parts of it: not true, then.
        let asked = format!(
            "(() => {{ try {{ return Boolean(document.body && ({expression})) }} catch (e) {{ return `${{e}}` }} }})()"
        );
        loop {
            let is = self.eval(&asked);
            if is == true {
                return;
            }
            let text = match Instant::now() < deadline {
                true => Value::Null,
                false => self.eval("document.body.innerText"),
            };
            assert!(text.is_null(), "never: {expression}: {is}\n{text}");
            self.pump(Duration::from_millis(20));
        }
    }

    /// Waits until the page says a text.
    pub fn until_text(&mut self, text: &str) {
        let text = Value::from(text);
        self.until(&format!("document.body.innerText.includes({text})"));
    }

    /// Hears what comes within a time.
    pub fn pump(&mut self, time: Duration) {
        match self.messages.recv_timeout(time) {
            Ok(message) => self.hear(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("the browser has ended"),
        }
        self.answer_paused();
    }

    /// Presses a key, as a person does.
    pub fn press(&mut self, key: &str) {
        let mut down = json!({ "type": "keyDown", "key": key, "code": key });
        let codes = [
            ("Tab", 9),
            ("Enter", 13),
            ("Escape", 27),
            ("ArrowLeft", 37),
            ("ArrowUp", 38),
            ("ArrowRight", 39),
            ("ArrowDown", 40),
            ("End", 35),
        ];
        match codes.iter().find(|code| code.0 == key) {
            Some((_, code)) => down["windowsVirtualKeyCode"] = json!(code),
            None => down["text"] = json!(key),
        }
        if key == "Enter" {
            down["text"] = json!("\r");
        }
        self.call("Input.dispatchKeyEvent", down.clone());
        down["type"] = json!("keyUp");
        self.call("Input.dispatchKeyEvent", down);
    }

    /// Clicks the first element of a selector that has this text, when it is there and can be clicked.
    pub fn click(&mut self, selector: &str, text: &str) {
        let (selector, text) = (Value::from(selector), Value::from(text));
        let found = format!(
            "[...document.querySelectorAll({selector})].find((e) => e.textContent.includes({text}) && !e.disabled)"
        );
        self.until(&found);
        self.eval(&format!("{found}.click()"));
    }

    /// Puts files into a file input.
    pub fn choose_files(&mut self, selector: &str, files: &[&str]) {
        let document = self.call("DOM.getDocument", json!({}));
        let asked = json!({ "nodeId": document["root"]["nodeId"], "selector": selector });
        let node = self.call("DOM.querySelector", asked);
        let put = json!({ "nodeId": node["nodeId"], "files": files });
        self.call("DOM.setFileInputFiles", put);
    }

    /// Writes what is seen to a file of the directory that `ISOBAR_SCREENSHOTS` names, for people to look at.
    pub fn picture(&mut self, name: &str) {
        let Some(directory) = std::env::var_os("ISOBAR_SCREENSHOTS") else {
            return;
        };
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let bytes = unbase64(shot["data"].as_str().unwrap());
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(
            std::path::Path::new(&directory).join(format!("{name}.png")),
            bytes,
        )
        .unwrap();
    }

    /// Fails when the page threw, or did what its policy forbids.
    pub fn check(&self) {
        assert!(self.faults.is_empty(), "{:#?}", self.faults);
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            let is_there = digit <= three.len();
            text.push(if is_there {
                DIGITS[value as usize] as char
            } else {
                '='
            });
        }
    }
    text
}

fn unbase64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    let values = text
        .bytes()
        .filter_map(|b| DIGITS.iter().position(|d| *d == b));
    for value in values {
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
