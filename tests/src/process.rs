//! Programs that a test starts, and waiting for what they do.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest that anything may take on the busiest machine, or under emulation; no test depends on it being short.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// A program that is killed when dropped.
#[derive(Debug)]
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a look finds, as soon as it finds something.
///
/// # Panics
/// It finds nothing for [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(PAUSE);
    }
}

/// What a program says of its addresses in its data directory, once it does.
pub fn addresses(data: &Path) -> Value {
    let path = data.join("addresses.json");
    wait_for("addresses.json", || {
        serde_json::from_str(&std::fs::read_to_string(&path).ok()?).ok()
    })
}
