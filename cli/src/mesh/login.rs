//! `isobar login`: gives a context its token.
//!
//! The token comes from standard input, where no other user of the machine sees it, and goes to a file that only its owner
//! can read, once the controller has said that it is right.

use std::io::{BufRead, IsTerminal};

use anyhow::{Context as _, anyhow};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::arguments::To;
use super::client::Client;
use super::context::{self, Chosen};
use super::output::say;
use crate::{Failure, Outcome, terminal};

/// Longest token, in bytes.
const TOKEN_LEN_MAX: usize = 4096;

/// Whose token.
#[derive(Debug, Args)]
pub struct LoginArguments {
    /// The context that gets it; the current one, else a new one named default
    pub name: Option<String>,
}

/// Reads a token, asks the controller whether it is right, keeps it.
///
/// # Errors
/// No token, a wrong one, no controller, or the files cannot be written.
pub fn run(to: &To, how: &LoginArguments) -> Outcome {
    let (name, chosen) = context::for_login(to, how.name.as_deref()).map_err(Failure::Input)?;
    let url = chosen.url.clone();
    let token = read_token(&url).map_err(Failure::Input)?;
    let client = Client::of(Chosen {
        token: Some(token.clone()),
        ..chosen.clone()
    })?;
    let asked = terminal::until_stopped(async |_| client.get("/v1/status").await);
    asked.map_err(Failure::Run)??;
    let file = context::keep_token(&name, &chosen, &token).map_err(Failure::Run)?;
    say(&format!(
        "logged in to {url} as context {name}; the token is in {}\n",
        file.display()
    ))
}

fn read_token(url: &str) -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    let asks = stdin.is_terminal();
    let _hidden = asks.then(|| {
        eprint!("token for {url}: ");
        Hidden::new()
    });
    let mut line = String::new();
    std::io::Read::take(stdin.lock(), TOKEN_LEN_MAX as u64 + 1)
        .read_line(&mut line)
        .context("cannot read a token from standard input")?;
    if asks {
        eprintln!();
    }
    match line.trim() {
        "" => Err(anyhow!(
            "no token on standard input; isobar login < token-file"
        )),
        long if long.len() > TOKEN_LEN_MAX => {
            Err(anyhow!("a token has at most {TOKEN_LEN_MAX} bytes"))
        }
        token => Ok(token.to_owned()),
    }
}

/// A terminal that does not show what is typed; shows it again when dropped.
struct Hidden(Option<rustix::termios::Termios>);

impl Hidden {
    fn new() -> Hidden {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut hidden = before.clone();
            hidden.local_modes.remove(LocalModes::ECHO);
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &hidden);
        }
        Hidden(before)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}
