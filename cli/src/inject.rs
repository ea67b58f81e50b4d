//! `isobar inject`: the proxy beside an application, put into manifests as the webhook puts it into pods.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use isobar_controller::injection::{Injection, Outcome as Became, inject_all, uninject_all};
use serde_json::Value;

use crate::{Failure, Outcome};

/// Longest file, in bytes.
const FILE_LEN_MAX: u64 = 16 << 20;
/// Longest file of roots, in bytes.
const ROOTS_LEN_MAX: u64 = 64 << 10;
/// Most documents of a file.
const DOCUMENTS_MAX: usize = 10_000;

/// What to change.
#[derive(Debug, Args)]
#[command(
    after_help = "The proxy finds the mesh's roots in the ConfigMap isobar-roots of its own namespace, or with --roots in the pod \
itself:
  kubectl -n isobar-system get configmap isobar-roots -o 'jsonpath={.data.ca\\.pem}' > roots.pem

Examples:
  isobar inject shop.yaml --roots roots.pem | kubectl apply -f -
  kubectl get deployment cart -o yaml | isobar inject - | kubectl apply -f -
  isobar inject --uninject shop.yaml | kubectl apply -f -"
)]
pub struct InjectArguments {
    /// Manifests, YAML or JSON, one or more documents or a List; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Take the proxy off instead
    #[arg(long, conflicts_with_all = ["roots", "image", "controller"])]
    pub uninject: bool,
    /// The proxy's image
    #[arg(long, value_name = "IMAGE", default_value = concat!("docker.io/library/isobar-proxy:", env!("CARGO_PKG_VERSION")))]
    pub image: String,
    /// The controller's stream port, as pods reach it
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "isobar-controller.isobar-system.svc:7401"
    )]
    pub controller: String,
    /// The mesh's roots, PEM
    #[arg(long, value_name = "FILE")]
    pub roots: Option<PathBuf>,
}

/// Prints the manifests with the proxy in them, and says on standard error what was left as it was and why.
///
/// # Errors
/// [`Failure::Input`] for a file that cannot be read, or a pod that cannot have a proxy; nothing is printed then.
pub fn run(arguments: &InjectArguments) -> Outcome {
    let text = read(&arguments.file, FILE_LEN_MAX).map_err(Failure::Input)?;
    let mut documents = documents(&text).map_err(Failure::Input)?;
    let roots_pem = match &arguments.roots {
        Some(file) => Some(roots(file).map_err(Failure::Input)?),
        None => None,
    };
    let injection = Injection {
        image: arguments.image.clone(),
        controller: arguments.controller.clone(),
        roots_pem,
    };
    let mut refused = Vec::new();
    for document in &mut documents {
        let outcomes = match arguments.uninject {
            true => uninject_all(document),
            false => inject_all(document, &injection),
        };
        for Became { about, result, .. } in outcomes {
            match result {
                Ok(None) => {}
                Ok(Some(left)) => eprintln!("isobar: {about} is left as it is: {}", left.as_str()),
                Err(error) => refused.push(format!("{about}: {error}")),
            }
        }
    }
    match refused.as_slice() {
        [] => print(&documents),
        refused => Err(Failure::Input(anyhow!("{}", refused.join("; ")))),
    }
}

fn read(file: &Path, len_max: u64) -> anyhow::Result<String> {
    let named = || format!("reading {}", file.display());
    let mut text = String::new();
    let read = match file.to_str() == Some("-") {
        true => std::io::stdin()
            .lock()
            .take(len_max + 1)
            .read_to_string(&mut text),
        false => std::fs::File::open(file)
            .with_context(named)?
            .take(len_max + 1)
            .read_to_string(&mut text),
    };
    let len = read.with_context(named)? as u64;
    match len > len_max {
        true => Err(anyhow!("{} is longer than {len_max} bytes", file.display())),
        false => Ok(text),
    }
}

fn roots(file: &Path) -> anyhow::Result<String> {
    let text = read(file, ROOTS_LEN_MAX)?;
    match text.contains("-----BEGIN CERTIFICATE-----") {
        true => Ok(text),
        false => Err(anyhow!("{} has no certificate in PEM", file.display())),
    }
}

/// The documents of a text, those that say nothing left out.
fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut documents = Vec::new();
    let mut lines = Vec::new();
    let mut began = 1;
    let mut take = |lines: &mut Vec<&str>, began: usize| -> anyhow::Result<()> {
        let text = lines.join("\n") + "\n";
        lines.clear();
        let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        if !text.lines().any(says) {
            return Ok(());
        }
        let named = || format!("the document that begins in line {began}");
        let value: Value = serde_saphyr::from_str(&text).with_context(named)?;
        match value {
            Value::Null => {}
            Value::Object(_) if documents.len() < DOCUMENTS_MAX => documents.push(value),
            Value::Object(_) => {
                return Err(anyhow!("there are more than {DOCUMENTS_MAX} documents"));
            }
            _ => return Err(anyhow!("{} is no Kubernetes object", named())),
        }
        Ok(())
    };
    for (at, line) in text.lines().enumerate() {
        // A separator may have a comment behind it; inside a block of text it would be indented.
        if line == "---" || line.starts_with("--- ") || line == "..." {
            take(&mut lines, began)?;
            began = at + 2;
        } else {
            lines.push(line);
        }
    }
    take(&mut lines, began)?;
    match documents.is_empty() {
        true => Err(anyhow!("there is no document in it")),
        false => Ok(documents),
    }
}

/// A YAML document each; a reader that has heard enough is no failure.
fn print(objects: &[Value]) -> Outcome {
    let mut out = std::io::stdout().lock();
    for object in objects {
        let text = serde_saphyr::to_string(object).map_err(|error| Failure::Run(error.into()))?;
        let text = text.trim_start_matches("---\n").trim_end();
        match writeln!(out, "---\n{text}") {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Failure::Run(error.into())),
            Ok(()) => {}
        }
    }
    Ok(())
}
