//! Who may come in: enrolment tokens, the certificate authority, operators' credentials.
//!
//! Secrets are printed once, alone on standard output, so that they can go to a file; what is said of them goes to standard
//! error.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use http::Method;
use isobar_mesh_api::names::{AccountName, NodeId, SiteName};
use serde_json::{Value, json};

use super::client::Client;
use super::output::{Format, Table, say, text};
use crate::{Failure, Outcome};

/// What to do with enrolment tokens.
#[derive(Debug, Args)]
pub struct TokenArguments {
    /// What
    #[command(subcommand)]
    pub action: TokenAction,
}

/// What to do with enrolment tokens.
#[derive(Debug, Subcommand)]
pub enum TokenAction {
    /// Make a token and print it, once
    #[command(
        after_help = "Examples:\n  isobar token create --node north-7 > token\n  isobar token create --uses 20 --site harbour --lasts 86400\n  isobar token create --node till-3 --workload shop/till > token"
    )]
    Create {
        /// How many nodes may enrol with it
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
        /// For how long, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        lasts: u64,
        /// For this node alone
        #[arg(long, value_name = "NAME")]
        node: Option<NodeId>,
        /// For nodes of this site alone
        #[arg(long, value_name = "NAME")]
        site: Option<SiteName>,
        /// For nodes that are declared with this label alone; may be repeated
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
        labels: Vec<(String, String)>,
        /// For the proxy beside this workload, whose certificate it then has
        #[arg(long, value_name = "NAMESPACE/ACCOUNT")]
        workload: Option<AccountName>,
    },
    /// List tokens, without their secrets
    #[command(after_help = "Example:\n  isobar token list")]
    List,
    /// Take a token away
    #[command(after_help = "Example:\n  isobar token revoke 3f9a2b71c0de")]
    Revoke {
        /// Its id, as list says it
        id: String,
    },
}

/// What to do with the authority.
#[derive(Debug, Args)]
pub struct CaArguments {
    /// What
    #[command(subcommand)]
    pub action: CaAction,
}

/// What to do with the authority.
#[derive(Debug, Subcommand)]
pub enum CaAction {
    /// Say which roots are believed, and what comes next
    #[command(after_help = "Example:\n  isobar ca status")]
    Status,
    /// Add a root that will take over
    #[command(after_help = "Example:\n  isobar ca rotate")]
    Rotate,
    /// Let the added root sign, now
    #[command(after_help = "Example:\n  isobar ca switch")]
    Switch(Force),
    /// Believe the old root no more, now
    #[command(after_help = "Example:\n  isobar ca retire")]
    Retire(Force),
    /// Make a new intermediate below the root
    #[command(after_help = "Example:\n  isobar ca renew")]
    Renew,
    /// Bring an authority of your own
    #[command(after_help = "Example:\n  isobar ca import --chain ours.pem --key ours-key.pem")]
    Import {
        /// Certificates, PEM: the one that signs leaves first, its root last
        #[arg(long, value_name = "FILE")]
        chain: PathBuf,
        /// The key of the first, PEM (PKCS #8)
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Refuse all that was given to a node so far
    #[command(after_help = "Example:\n  isobar ca revoke north-7")]
    Revoke {
        /// Its name
        node: NodeId,
    },
}

/// Whether to wait for nodes.
#[derive(Debug, Args)]
pub struct Force {
    /// Although connected nodes have not said that they are ready
    #[arg(long)]
    pub force: bool,
}

/// What to do with operators' credentials.
#[derive(Debug, Args)]
pub struct CredentialArguments {
    /// What
    #[command(subcommand)]
    pub action: CredentialAction,
}

/// What to do with operators' credentials.
#[derive(Debug, Subcommand)]
pub enum CredentialAction {
    /// Make a credential and print its token, once
    #[command(
        after_help = "Example:\n  isobar credential create shop-team --role operator --namespace shop > shop-token"
    )]
    Create {
        /// Its name
        name: NodeId,
        /// viewer, operator or admin
        #[arg(long, value_name = "ROLE", value_parser = ["viewer", "operator", "admin"])]
        role: String,
        /// The operator writes in this namespace alone; may be repeated
        #[arg(long = "namespace", value_name = "NAME")]
        namespaces: Vec<String>,
        /// For how long, in seconds; for ever when not said
        #[arg(long, value_name = "SECONDS")]
        lasts: Option<u64>,
    },
    /// List credentials, without their tokens
    #[command(after_help = "Example:\n  isobar credential list")]
    List,
    /// Take a credential away
    #[command(after_help = "Example:\n  isobar credential revoke shop-team")]
    Revoke {
        /// Its name
        name: NodeId,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("must be written KEY=VALUE")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// Enrolment tokens.
///
/// # Errors
/// The controller does not answer, or refuses.
pub async fn token(client: &Client, format: Format, action: &TokenAction) -> Outcome {
    const PATH: &str = "/v1/tokens";
    match action {
        TokenAction::Create {
            uses,
            lasts,
            node,
            site,
            labels,
            workload,
        } => {
            let labels: std::collections::BTreeMap<_, _> = labels.iter().cloned().collect();
            let asked = json!({
                "uses_max": uses, "lasts_s": lasts, "node": node, "site": site, "labels": labels,
                "workload": workload,
            });
            let made = client.send(Method::POST, PATH, Some(&asked)).await?.value;
            secret(
                format,
                &made,
                "text",
                "give it to the proxy in its token_file",
            )
        }
        TokenAction::List => {
            let all = client.get(PATH).await?;
            format.print(&all, || {
                let columns = [
                    "id",
                    "uses",
                    "uses_max",
                    "expires_s",
                    "node",
                    "site",
                    "workload",
                ];
                table(&all["items"], columns)
            })
        }
        TokenAction::Revoke { id } => revoke(client, &format!("{PATH}/{id}"), id).await,
    }
}

/// The certificate authority.
///
/// # Errors
/// The controller does not answer, or refuses; a file cannot be read.
pub async fn ca(client: &Client, format: Format, action: &CaAction) -> Outcome {
    let step = async |step: &str, force: bool| {
        let asked = json!({ "step": step, "force": force });
        let path = "/v1/authority/steps";
        client.send(Method::POST, path, Some(&asked)).await
    };
    let status = match action {
        CaAction::Status => client.get("/v1/authority").await?,
        CaAction::Rotate => step("begin", false).await?.value,
        CaAction::Switch(Force { force }) => step("switch", *force).await?.value,
        CaAction::Retire(Force { force }) => step("retire", *force).await?.value,
        CaAction::Renew => step("renew", false).await?.value,
        CaAction::Import { chain, key } => {
            let asked = json!({ "chain_pem": read(chain)?, "key_pem": read(key)? });
            let path = "/v1/authority/import";
            client.send(Method::POST, path, Some(&asked)).await?.value
        }
        CaAction::Revoke { node } => {
            let path = format!("/v1/revocations/{node}");
            client.send(Method::PUT, &path, None).await?;
            return say(&format!("all that was given to {node} is refused\n"));
        }
    };
    format.print(&status, || {
        let roots = table(
            &status["roots"],
            ["id", "stage", "ends_s", "issuer_ends_s", "has_key"],
        );
        let nodes = (&status["nodes_connected"], &status["nodes_behind"]);
        let next = text(&status["next"]);
        format!(
            "{roots}nodes connected {}, behind {}\nnext: {next}\n",
            nodes.0, nodes.1
        )
    })
}

/// Operators' credentials.
///
/// # Errors
/// The controller does not answer, or refuses.
pub async fn credential(client: &Client, format: Format, action: &CredentialAction) -> Outcome {
    const PATH: &str = "/v1/credentials";
    match action {
        CredentialAction::Create {
            name,
            role,
            namespaces,
            lasts,
        } => {
            let asked = json!({
                "name": name, "role": role, "namespaces": namespaces, "lasts_s": lasts,
            });
            let made = client.send(Method::POST, PATH, Some(&asked)).await?.value;
            secret(format, &made, "token", "keep it in a file of mode 0600")
        }
        CredentialAction::List => {
            let all = client.get(PATH).await?;
            format.print(&all, || {
                table(
                    &all["items"],
                    ["name", "role", "namespaces", "created_s", "expires_s"],
                )
            })
        }
        CredentialAction::Revoke { name } => {
            revoke(client, &format!("{PATH}/{name}"), name.as_str()).await
        }
    }
}

/// Prints a secret alone, so that it can be redirected.
fn secret(format: Format, made: &Value, field: &str, advice: &str) -> Outcome {
    if let Format::Table = format {
        eprintln!("printed once; {advice}");
    }
    format.print(made, || format!("{}\n", text(&made[field])))
}

async fn revoke(client: &Client, path: &str, name: &str) -> Outcome {
    client.send(Method::DELETE, path, None).await?;
    say(&format!("{name} is revoked\n"))
}

fn read(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()));
    text.map_err(Failure::Input)
}

fn table<const N: usize>(items: &Value, columns: [&str; N]) -> String {
    let heads = columns.map(|column| column.to_uppercase().replace('_', " "));
    let mut table = Table::new(heads.each_ref().map(String::as_str));
    for item in items.as_array().into_iter().flatten() {
        table.row(columns.map(|column| text(&item[column])));
    }
    table.to_string()
}

/// Who would be refused if every service let in only who has shown who they are; an error when there is somebody.
pub async fn strict_dry_run(client: &Client, format: Format) -> Outcome {
    let said = client.get("/v1/mtls").await?;
    let list = |name: &str| said[name].as_array().cloned().unwrap_or_default();
    let (services, callers) = (list("services"), list("callers"));
    format.print(&said, || {
        let mut modes = Table::new(["SERVICE", "MODE", "POLICY"]);
        for service in &services {
            modes.row(["service", "mode", "policy"].map(|field| text(&service[field])));
        }
        let mut who = Table::new(["SERVICE", "CALLER", "CALLS", "NODES", "LAST"]);
        for caller in &callers {
            who.row(["service", "caller", "calls", "nodes", "last_s"].map(|field| text(&caller[field])));
        }
        let unseen = services.iter().filter(|service| service["mode"] == "off").count();
        let mut said = format!("{modes}\n");
        if !who.is_empty() {
            said.push_str(&format!("These would be refused:\n{who}\n"));
        }
        if unseen > 0 {
            said.push_str(&format!(
                "Who calls {unseen} services is not seen: their mode is off; permissive counts callers and refuses nobody.\n"
            ));
        }
        said
    })?;
    match callers.is_empty() {
        true => Ok(()),
        false => Err(Failure::Verdict),
    }
}
