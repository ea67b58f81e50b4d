//! A cluster, as `kubectl` reaches it: with the operator's own credentials.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};

/// Where everything is installed.
pub const NAMESPACE: &str = "isobar-system";
/// Most names in one line.
const NAMED_MAX: usize = 8;

/// The names of the objects that fit, or none.
pub fn names(objects: &[Value], fits: impl Fn(&Value) -> bool) -> Option<String> {
    let name = |object: &Value| {
        object["metadata"]["name"]
            .as_str()
            .unwrap_or("?")
            .to_owned()
    };
    let fitting: Vec<String> = objects.iter().filter(|o| fits(o)).map(name).collect();
    let more = match fitting.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named: Vec<&str> = fitting.iter().map(String::as_str).take(NAMED_MAX).collect();
    (!named.is_empty()).then(|| format!("{}{more}", named.join(", ")))
}

/// How kubectl is called.
pub struct Cluster<'a>(pub &'a str);

impl Cluster<'_> {
    /// One object or list, by its path.
    ///
    /// # Errors
    /// kubectl cannot be called, or the API server says no.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(&["get", "--request-timeout=20s", "--raw", path], None)
    }

    /// The objects of a list.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub fn items(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let list = self.get(path)?;
        let items = list["items"].as_array();
        Ok(items.cloned().unwrap_or_default())
    }

    /// Whether who asks may create a resource.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub fn may_create(&self, group: &str, resource: &str) -> anyhow::Result<bool> {
        let attributes =
            json!({"verb": "create", "group": group, "resource": resource, "namespace": NAMESPACE});
        self.review("Self", json!({"resourceAttributes": attributes}))
    }

    /// Whether a user may use a verb on a resource of any namespace.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub fn user_may(
        &self,
        user: &str,
        verb: &str,
        group: &str,
        resource: &str,
    ) -> anyhow::Result<bool> {
        let attributes = json!({"verb": verb, "group": group, "resource": resource});
        self.review("", json!({"user": user, "resourceAttributes": attributes}))
    }

    fn review(&self, of: &str, spec: Value) -> anyhow::Result<bool> {
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": format!("{of}SubjectAccessReview"), "spec": spec});
        let of = of.to_lowercase();
        let path = format!("/apis/authorization.k8s.io/v1/{of}subjectaccessreviews");
        let answer = self.ask(&["create", "--raw", &path, "-f", "-"], Some(&review))?;
        Ok(answer["status"]["allowed"] == true)
    }

    fn ask(&self, arguments: &[&str], input: Option<&Value>) -> anyhow::Result<Value> {
        let mut words = self.0.split_whitespace();
        let program = words.next().ok_or_else(|| anyhow!("--kubectl is empty"))?;
        let mut child = Command::new(program)
            .args(words)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("calling {program}"))?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // It may have ended already; what it said is read below.
            let _ = stdin.write_all(input.to_string().as_bytes());
        }
        let ended = child.wait_with_output()?;
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr);
            bail!("{}", said.lines().last().unwrap_or("kubectl failed"));
        }
        serde_json::from_slice(&ended.stdout).context("reading what kubectl printed")
    }
}
