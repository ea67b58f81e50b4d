//! Contexts: which controllers there are, which is used, and the token for it.
//!
//! One YAML file of the user, mode 0600, written whole. A token never stands on the command line, where every user of
//! the machine could read it: it comes from `ISOBAR_TOKEN` or from a file that only its owner can read.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::arguments::To;
use super::output::{Table, say};
use crate::{Failure, Outcome};

/// Where a controller is when nothing is said.
const CONTROLLER_DEFAULT: &str = "https://127.0.0.1:7400";

/// What to do with contexts.
#[derive(Debug, Args)]
pub struct ContextArguments {
    /// What to do.
    #[command(subcommand)]
    pub action: ContextAction,
}

/// What to do with contexts.
#[derive(Debug, Subcommand)]
pub enum ContextAction {
    /// List them; the current one has a star
    #[command(after_help = "Example:\n  isobar context list")]
    List,
    /// Say which is used
    #[command(after_help = "Example:\n  isobar context current")]
    Current,
    /// Use one from now on
    #[command(after_help = "Example:\n  isobar context use site")]
    Use {
        /// Its name
        name: String,
    },
    /// Create or change one; the first is used from now on
    #[command(
        after_help = "Example:\n  isobar context set site --url https://10.0.0.5:7400 --ca-file site-ca.pem --token-file ~/.isobar/site-token"
    )]
    Set {
        /// Its name
        name: String,
        /// The controller's REST API, https://host:port
        #[arg(long, value_name = "URL")]
        url: String,
        /// A file with the bearer token, mode 0600
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Roots to believe it by, PEM; ca.pem in its data directory
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
        /// Believe it by the SHA-256 of its certificate or of the root above it
        #[arg(long, value_name = "SHA256")]
        pin: Option<String>,
        /// A client certificate instead of a token, PEM
        #[arg(long, value_name = "FILE", requires = "key_file")]
        cert_file: Option<PathBuf>,
        /// Its key, PEM, mode 0600
        #[arg(long, value_name = "FILE", requires = "cert_file")]
        key_file: Option<PathBuf>,
    },
    /// Delete one
    #[command(after_help = "Example:\n  isobar context delete site")]
    Delete {
        /// Its name
        name: String,
    },
}

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contexts {
    /// Which is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    pub contexts: BTreeMap<String, Context>,
}

/// One controller.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Its REST API, `https://host:port`.
    pub url: String,
    /// A file with the bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Whom to believe, and the client certificate.
    #[serde(default, skip_serializing_if = "ContextTls::is_empty")]
    pub tls: ContextTls,
}

/// How a controller is known over TLS, and who asks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContextTls {
    /// Roots, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The SHA-256 of its certificate, or of one above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// The client certificate, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

impl Contexts {
    fn table(&self) -> String {
        let mut table = Table::new(["", "NAME", "URL", "TOKEN FILE", "BELIEVED BY"]);
        for (name, context) in &self.contexts {
            let is_current = self.current.as_ref() == Some(name);
            let star = if is_current { "*" } else { "" };
            let file = context.token_file.as_deref();
            let file = file.map_or_else(String::new, |file| file.display().to_string());
            let by = context.tls.believed_by();
            table.row([star.to_owned(), name.clone(), context.url.clone(), file, by]);
        }
        table.to_string()
    }
}

impl ContextTls {
    fn is_empty(&self) -> bool {
        *self == ContextTls::default()
    }

    /// What the controller is known by, in a few words.
    fn believed_by(&self) -> String {
        match (&self.pin, &self.ca_file) {
            (Some(pin), _) => format!("pin {pin}"),
            (None, Some(file)) => file.display().to_string(),
            (None, None) => String::new(),
        }
    }
}

/// Whom to ask, and as whom.
#[derive(Clone)]
pub struct Chosen {
    /// The REST API.
    pub url: String,
    /// The bearer token.
    pub token: Option<String>,
    /// Roots to believe it by.
    pub ca_file: Option<PathBuf>,
    /// The SHA-256 to know it by.
    pub pin: Option<String>,
    /// The client certificate.
    pub certificate_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

/// Which controller the arguments, the environment and the file choose, in this order.
///
/// # Errors
/// A context that is not there, a file that cannot be read or that others can.
pub fn choose(to: &To) -> anyhow::Result<Chosen> {
    let contexts = read()?;
    let named = to.context.clone().or_else(|| variable("ISOBAR_CONTEXT"));
    let context = match named.as_ref().or(contexts.current.as_ref()) {
        Some(name) => Some(contexts.contexts.get(name).ok_or_else(|| {
            anyhow!("there is no context {name:?}; isobar context list shows those that there are")
        })?),
        None => None,
    };
    let given = to
        .controller
        .clone()
        .or_else(|| variable("ISOBAR_CONTROLLER"));
    // Another controller does not get this context's token.
    let file = match &given {
        Some(_) => None,
        None => context.and_then(|context| context.token_file.as_deref()),
    };
    let token = match (variable("ISOBAR_TOKEN"), file) {
        (Some(token), _) => Some(token),
        (None, Some(file)) => Some(read_secret(file)?.trim().to_owned()),
        (None, None) => None,
    };
    // Nor is it known by what this context's controller is known by.
    let kept = match &given {
        Some(_) => ContextTls::default(),
        None => context
            .map(|context| context.tls.clone())
            .unwrap_or_default(),
    };
    let url = given.or_else(|| context.map(|context| context.url.clone()));
    let url = url.unwrap_or_else(|| CONTROLLER_DEFAULT.to_owned());
    Ok(chosen(to, url, token, kept))
}

/// The context that a login is for, and its controller; without a token.
///
/// # Errors
/// A file that cannot be read, or a name that is none.
pub fn for_login(to: &To, name: Option<&str>) -> anyhow::Result<(String, Chosen)> {
    let contexts = read()?;
    let named = name.map(str::to_owned).or_else(|| to.context.clone());
    let name = named
        .or_else(|| variable("ISOBAR_CONTEXT"))
        .or_else(|| contexts.current.clone());
    let name = name.unwrap_or_else(|| "default".to_owned());
    check_name(&name)?;
    let given = to
        .controller
        .clone()
        .or_else(|| variable("ISOBAR_CONTROLLER"));
    let known = contexts.contexts.get(&name).cloned().unwrap_or_default();
    let kept = match &given {
        Some(url) if *url != known.url => ContextTls::default(),
        _ => known.tls,
    };
    let known = Some(known.url).filter(|url| !url.is_empty());
    let url = given.or(known);
    let url = url.unwrap_or_else(|| CONTROLLER_DEFAULT.to_owned());
    Ok((name, chosen(to, url, None, kept)))
}

/// A controller, believed as the arguments, the environment and what is kept of it say.
fn chosen(to: &To, url: String, token: Option<String>, kept: ContextTls) -> Chosen {
    let path = |flag: &Option<PathBuf>, name, kept| {
        let named = flag.clone().or_else(|| variable(name).map(PathBuf::from));
        named.or(kept)
    };
    let pin = to.pin.clone().or_else(|| variable("ISOBAR_PIN"));
    Chosen {
        url,
        token,
        ca_file: path(&to.ca_file, "ISOBAR_CA_FILE", kept.ca_file),
        pin: pin.or(kept.pin),
        certificate_file: path(&to.cert_file, "ISOBAR_CERT_FILE", kept.cert_file),
        key_file: path(&to.key_file, "ISOBAR_KEY_FILE", kept.key_file),
    }
}

/// Writes a token to a file beside the contexts, mode 0600, and sets it for the context, which is current from then on when
/// none was. Returns the file.
///
/// # Errors
/// Something cannot be written.
pub fn keep_token(name: &str, controller: &Chosen, token: &str) -> anyhow::Result<PathBuf> {
    let mut contexts = read()?;
    let file = path()?.with_file_name(format!("{name}.token"));
    write_secret(&file, format!("{token}\n").as_bytes())?;
    let known = contexts.contexts.entry(name.to_owned());
    let context = known.or_default();
    context.url = controller.url.clone();
    context.tls = ContextTls {
        ca_file: whole(&controller.ca_file)?,
        pin: controller.pin.clone(),
        cert_file: whole(&controller.certificate_file)?,
        key_file: whole(&controller.key_file)?,
    };
    context.token_file = Some(file.clone());
    contexts.current.get_or_insert_with(|| name.to_owned());
    write(&contexts)?;
    Ok(file)
}

/// A context's name is part of a file's.
fn check_name(name: &str) -> anyhow::Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !name.is_empty() && !name.starts_with('.') && name.chars().all(fine) {
        true => Ok(()),
        false => bail!("{name:?} is no name of a context; letters, digits, - _ and . make one"),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Does what is asked with contexts.
pub fn run(action: &ContextAction) -> Outcome {
    match change(action).map_err(Failure::Input)? {
        Some(text) => say(&text),
        None => Ok(()),
    }
}

/// Changes the file, or says what is in it.
fn change(action: &ContextAction) -> anyhow::Result<Option<String>> {
    let mut contexts = read()?;
    let known = |contexts: &Contexts, name: &str| match contexts.contexts.contains_key(name) {
        true => Ok(()),
        false => Err(anyhow!("there is no context {name:?}")),
    };
    match action {
        ContextAction::List => return Ok(Some(contexts.table())),
        ContextAction::Current => {
            let current = contexts.current.as_ref();
            let current =
                current.context("there is no current context; isobar context use NAME")?;
            return Ok(Some(format!("{current}\n")));
        }
        ContextAction::Use { name } => {
            known(&contexts, name)?;
            contexts.current = Some(name.clone());
        }
        ContextAction::Set {
            name,
            url,
            token_file,
            ca_file,
            pin,
            cert_file,
            key_file,
        } => {
            check_name(name)?;
            super::client::parse_url(url)?;
            if let Some(file) = token_file {
                read_secret(file)?;
            }
            let tls = ContextTls {
                ca_file: whole(ca_file)?,
                pin: pin.clone(),
                cert_file: whole(cert_file)?,
                key_file: whole(key_file)?,
            };
            // What cannot be used is said now, not at the first request.
            super::tls::Tls::new(&Chosen {
                url: url.clone(),
                token: None,
                ca_file: tls.ca_file.clone(),
                pin: tls.pin.clone(),
                certificate_file: tls.cert_file.clone(),
                key_file: tls.key_file.clone(),
            })?;
            let context = Context {
                url: url.clone(),
                token_file: whole(token_file)?,
                tls,
            };
            contexts.contexts.insert(name.clone(), context);
            contexts.current.get_or_insert_with(|| name.clone());
        }
        ContextAction::Delete { name } => {
            known(&contexts, name)?;
            contexts.contexts.remove(name);
            contexts.current = contexts.current.filter(|current| current != name);
        }
    }
    write(&contexts)?;
    Ok(None)
}

fn path() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("ISOBAR_CONFIG").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let home = std::env::var_os("HOME").context("neither ISOBAR_CONFIG nor HOME is set")?;
    Ok(Path::new(&home).join(".config/isobar/config.yaml"))
}

fn read() -> anyhow::Result<Contexts> {
    let Ok(path) = path() else {
        return Ok(Contexts::default());
    };
    if !path.exists() {
        return Ok(Contexts::default());
    }
    let text = read_secret(&path)?;
    serde_saphyr::from_str(&text)
        .with_context(|| format!("{} is no file of contexts", path.display()))
}

/// A path that is the same file wherever a later command is run.
fn whole(path: &Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    let whole = path.as_ref().map(std::path::absolute).transpose();
    whole.context("the working directory is not there")
}

/// Reads a file that only its owner may read.
pub(super) fn read_secret(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        bail!("{shown} can be read by others; chmod 600 {shown}");
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))
}

fn write(contexts: &Contexts) -> anyhow::Result<()> {
    write_secret(&path()?, serde_saphyr::to_string(contexts)?.as_bytes())
}

/// Writes a file whole, for its owner alone.
fn write_secret(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || -> anyhow::Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let new = path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(std::fs::rename(&new, path)?)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
