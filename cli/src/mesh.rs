//! Commands for a running mesh, thin over the controller's REST API.
//!
//! - [`arguments`]: what may be written;
//! - [`context`]: which controllers there are;
//! - [`client`], [`tls`]: ask one;
//! - [`output`]: how answers are written;
//! - [`show`], [`plan`], [`live`], [`top`], [`sse`]: what there is, why, and what happens;
//! - [`tap`]: single requests, and what else running programs are asked;
//! - [`bundle`], [`redact`]: all of it in a file, without secrets;
//! - [`login`]: a token for a context;
//! - [`resources`]: what operators change;
//! - [`identity`]: who may come in.
//!
//! Exit status beside those of every command: 3 = the controller cannot be reached, 4 = it refuses who asks,
//! 5 = there is no such thing, 6 = it was changed meanwhile.

use tokio_util::sync::CancellationToken;

pub mod arguments;
pub mod bundle;
pub mod client;
pub mod context;
pub mod identity;
pub mod live;
pub mod login;
pub mod output;
pub mod plan;
pub mod redact;
pub mod resources;
pub mod show;
pub mod sse;
pub mod tap;
pub mod tls;
pub mod top;

use arguments::{MeshCommand, To};
use client::Client;

use crate::{Failure, Outcome, terminal};

/// Does what a command says.
///
/// # Errors
/// See [`Failure`].
pub fn run(command: &MeshCommand) -> Outcome {
    match command {
        MeshCommand::Check(what) if what.strict_dry_run => {}
        MeshCommand::Check(what) if what.files.is_empty() => {
            return crate::check::run(&what.cluster);
        }
        MeshCommand::Check(what) => return resources::check(what),
        MeshCommand::Context(what) => return context::run(&what.action),
        MeshCommand::Login(with) => return login::run(&with.to, &with.what),
        _ => {}
    }
    let client = Client::new(to(command))?;
    let done = terminal::until_stopped(async |stop| {
        tokio::select! {
            // What watches ends by itself when it is told to.
            biased;
            done = ask(&client, command, &stop) => done,
            () = stop.cancelled() => Ok(()),
        }
    });
    done.map_err(Failure::Run)?
}

fn to(command: &MeshCommand) -> &To {
    match command {
        MeshCommand::Status(with) | MeshCommand::Routes(with) => &with.to,
        MeshCommand::Nodes(with) => &with.to,
        MeshCommand::Services(with) => &with.to,
        MeshCommand::Weights(with) | MeshCommand::Edges(with) => &with.to,
        MeshCommand::Explain(with) => &with.to,
        MeshCommand::Top(with) => &with.to,
        MeshCommand::Events(with) => &with.to,
        MeshCommand::Tap(with) => &with.to,
        MeshCommand::Logs(with) => &with.to,
        MeshCommand::BenchLink(with) => &with.to,
        MeshCommand::SupportBundle(with) => &with.to,
        MeshCommand::Login(with) => &with.to,
        MeshCommand::Policy(with) => &with.to,
        MeshCommand::WhatIf(with) => &with.to,
        MeshCommand::Audit(with) => &with.to,
        MeshCommand::Token(with) => &with.to,
        MeshCommand::Ca(with) => &with.to,
        MeshCommand::Credential(with) => &with.to,
        MeshCommand::Export(with) => &with.to,
        MeshCommand::Import(with) => &with.to,
        MeshCommand::Check(what) => &what.to,
        MeshCommand::Context(_) => &To::NOTHING,
    }
}

async fn ask(client: &Client, command: &MeshCommand, stop: &CancellationToken) -> Outcome {
    let to = to(command);
    let format = to.output;
    match command {
        MeshCommand::Status(_) => show::status(client, format).await,
        MeshCommand::Nodes(with) => match &with.what.action {
            Some(action) => show::node(client, to, action).await,
            None => show::nodes(client, format).await,
        },
        MeshCommand::Services(with) => show::services(client, format, &with.what).await,
        MeshCommand::Weights(with) => show::weights(client, format, &with.what).await,
        MeshCommand::Explain(with) => plan::explain(client, format, &with.what).await,
        MeshCommand::Top(with) => top::top(client, format, &with.what, stop).await,
        MeshCommand::Edges(with) => show::edges(client, format, &with.what).await,
        MeshCommand::Routes(_) => show::routes(client, format).await,
        MeshCommand::Events(with) => live::events(client, format, &with.what, stop).await,
        MeshCommand::Tap(with) => tap::tap(client, format, &with.what, stop).await,
        MeshCommand::Logs(with) => tap::logs(client, format, &with.what.action).await,
        MeshCommand::BenchLink(with) => tap::bench_link(client, format, &with.what).await,
        MeshCommand::SupportBundle(with) => bundle::run(client, format, &with.what).await,
        MeshCommand::Policy(with) => resources::run(client, to, &with.what.action).await,
        MeshCommand::WhatIf(with) => resources::what_if(client, format, &with.what).await,
        MeshCommand::Audit(with) => show::audit(client, format, &with.what).await,
        MeshCommand::Token(with) => identity::token(client, format, &with.what.action).await,
        MeshCommand::Ca(with) => identity::ca(client, format, &with.what.action).await,
        MeshCommand::Credential(with) => {
            identity::credential(client, format, &with.what.action).await
        }
        MeshCommand::Export(with) => resources::export(client, format, &with.what).await,
        MeshCommand::Import(with) => resources::import(client, format, &with.what).await,
        MeshCommand::Check(_) => identity::strict_dry_run(client, format).await,
        // These ask nobody, or in their own way.
        MeshCommand::Context(_) | MeshCommand::Login(_) => Ok(()),
    }
}
