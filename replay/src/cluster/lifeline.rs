//! The child's side of a process's life: end on SIGTERM, Ctrl-C, or when the parent is gone.

use std::io::{self, Read};
use std::thread;

use tokio_util::sync::CancellationToken;

/// Cancels the token when standard input ends: the parent holds its other end, so it ends when
/// the parent does, even by SIGKILL.
///
/// The watching thread lives as long as the process; it holds nothing but the token.
///
/// # Errors
/// No thread can be made.
pub fn watch_parent(shutdown: CancellationToken) -> io::Result<()> {
    let watch = move || {
        let mut scrap = [0_u8; 64];
        let mut stdin = io::stdin().lock();
        loop {
            match stdin.read(&mut scrap) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        shutdown.cancel();
    };
    thread::Builder::new()
        .name("lifeline".to_owned())
        .spawn(watch)?;
    Ok(())
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// The signals cannot be watched.
pub async fn stop_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
