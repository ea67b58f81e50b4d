//! What a person sees while something runs, and how they stop it.
//!
//! On a terminal things are redrawn in place; elsewhere (a file, a build
//! server) they become lines, few enough to read.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use isobar_replay::cluster::lifeline::stop_signal;
use tokio_util::sync::CancellationToken;

/// Time between two lines where nothing can be redrawn.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Assumed size of a terminal that does not tell.
const SIZE: Size = Size {
    columns: 80,
    rows: 24,
};

/// How much fits on a screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

/// One changing line on standard error.
#[derive(Debug)]
pub struct Status {
    redraw: bool,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    text: String,
    at: Option<Instant>,
}

impl Status {
    /// Nothing said yet.
    pub fn new() -> Status {
        Status {
            redraw: std::io::stderr().is_terminal(),
            last: Mutex::new(Last {
                text: String::new(),
                at: None,
            }),
        }
    }

    /// Says what is being done. Where it cannot be redrawn, at most one line in 5 s is written.
    pub fn say(&self, text: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.text == text {
            return;
        }
        last.text = text.to_owned();
        let mut stderr = std::io::stderr().lock();
        if self.redraw {
            let columns = size().columns.saturating_sub(1);
            let shown: String = text.chars().take(columns).collect();
            let _ = write!(stderr, "\r\x1b[2K{shown}");
            let _ = stderr.flush();
        } else if last.at.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            last.at = Some(Instant::now());
            let _ = writeln!(stderr, "{text}");
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if self.redraw {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

impl Default for Status {
    fn default() -> Status {
        Status::new()
    }
}

/// A picture of several lines on standard output, redrawn in place; where that is not possible, one
/// line in 5 s.
#[derive(Debug)]
pub struct Picture {
    redraw: bool,
    drawn: usize,
    line_at: Option<Instant>,
}

impl Picture {
    /// Nothing drawn yet.
    pub fn new() -> Picture {
        Picture {
            redraw: std::io::stdout().is_terminal(),
            drawn: 0,
            line_at: None,
        }
    }

    /// Replaces the picture. `picture` is asked for lines that fit the size; `line` for one line
    /// that says the same.
    pub fn draw(
        &mut self,
        picture: impl FnOnce(Size) -> Vec<String>,
        line: impl FnOnce() -> String,
    ) {
        let mut stdout = std::io::stdout().lock();
        if !self.redraw {
            if self.line_at.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
                self.line_at = Some(Instant::now());
                let _ = writeln!(stdout, "{}", line());
                let _ = stdout.flush();
            }
            return;
        }
        let size = size();
        let lines = picture(size);
        let plain = !wants_colour();
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in lines.iter().take(size.rows.saturating_sub(1)) {
            let line = match plain {
                true => without_colour(line),
                false => line.clone(),
            };
            text.push_str(&format!("\r\x1b[2K{line}\x1b[0m\n"));
        }
        // What an earlier, longer picture left below.
        text.push_str("\x1b[0J");
        self.drawn = lines.len().min(size.rows.saturating_sub(1));
        let _ = stdout.write_all(text.as_bytes());
        let _ = stdout.flush();
    }

    /// Leaves what is drawn and begins below it.
    pub fn keep(&mut self) {
        self.drawn = 0;
        self.line_at = None;
    }
}

/// A line without its colours (`ESC [ … m`).
fn without_colour(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once('m').map_or(part, |(_, rest)| rest)
    })
}

impl Default for Picture {
    fn default() -> Picture {
        Picture::new()
    }
}

/// Whether a person wants colours: `NO_COLOR` is not set (<https://no-color.org>).
pub fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// The terminal's size.
pub fn size() -> Size {
    let told = rustix::termios::tcgetwinsize(std::io::stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(std::io::stderr()));
    match told {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => Size {
            columns: usize::from(size.ws_col),
            rows: usize::from(size.ws_row),
        },
        _ => SIZE,
    }
}

/// Runs something that can be stopped: its token is cancelled by Ctrl-C or SIGTERM, and it is
/// waited for.
///
/// # Errors
/// The system gives no runtime.
pub fn until_stopped<T>(work: impl AsyncFnOnce(CancellationToken) -> T) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime")?;
    Ok(runtime.block_on(async {
        let stop = CancellationToken::new();
        let listen = async {
            // Without signals it just cannot be stopped this way.
            if stop_signal().await.is_ok() {
                stop.cancel();
            }
            std::future::pending::<std::convert::Infallible>().await
        };
        tokio::select! {
            done = work(stop.clone()) => done,
            never = listen => match never {},
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_and_text_stays() {
        let line = "a \x1b[32mbusy\x1b[0m place";
        assert_eq!(without_colour(line), "a busy place");
        assert_eq!(without_colour("plain"), "plain");
    }
}
