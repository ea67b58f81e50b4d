//! One drain for all: every task of the program is spawned here and ends here.
//!
//! ```text
//! stop signal ──▶ Drain::signal() ──▶ tasks stop taking work, finish what they have
//!                                └──▶ Drain::finish(deadline): wait, then abort the rest
//! ```
//!
//! **Invariant**: no task outlives [`Drain::finish`]. [`Drain`] holds each task by its abort
//! handle, so what did not finish by the deadline is cut off, and dropping it cuts off all.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns tasks and ends them.
#[derive(Debug, Clone)]
pub struct Drain {
    signal: CancellationToken,
    cut_off: CancellationToken,
    tasks: TaskTracker,
    /// Wakes who waits for a task that must not end before the signal.
    failed: Arc<Notify>,
}

impl Drain {
    /// A drain that begins when `signal` is cancelled.
    pub fn new(signal: CancellationToken) -> Drain {
        Drain {
            signal,
            cut_off: CancellationToken::new(),
            tasks: TaskTracker::new(),
            failed: Arc::new(Notify::new()),
        }
    }

    /// Cancelled when tasks shall finish what they have and end.
    pub fn signal(&self) -> &CancellationToken {
        &self.signal
    }

    /// Runs a task until it ends or is cut off.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cut_off = self.cut_off.clone();
        // What an `async` block takes in and then waits for has two places in it; boxed, these are two pointers.
        let task = Box::pin(task);
        self.tasks.spawn(async move {
            tokio::select! {
                () = cut_off.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Runs a task without which the program is of no use: when it ends before the signal, by a
    /// return or a panic, [`Drain::until_signal_or_failure`] returns.
    pub fn spawn_essential(&self, task: impl Future<Output = ()> + Send + 'static) {
        let bell = Bell(self.failed.clone());
        self.spawn(async move {
            let _bell = bell;
            task.await;
        });
    }

    /// Waits for the signal; `false` when an essential task ended first.
    pub async fn until_signal_or_failure(&self) -> bool {
        tokio::select! {
            biased;
            () = self.signal.cancelled() => true,
            () = self.failed.notified() => self.signal.is_cancelled(),
        }
    }

    /// Signals, waits for all tasks, cuts off those that are not done by the deadline.
    /// Returns whether all ended by themselves.
    pub async fn finish(&self, deadline: Duration) -> bool {
        self.signal.cancel();
        self.tasks.close();
        let clean = tokio::time::timeout(deadline, self.tasks.wait())
            .await
            .is_ok();
        self.cut_off.cancel();
        self.tasks.wait().await;
        clean
    }

    /// Cuts off every task at once, as a crash would.
    pub fn abort(&self) {
        self.cut_off.cancel();
        self.signal.cancel();
    }
}

/// Rings when dropped: also when its task panics.
struct Bell(Arc<Notify>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_finish_is_cut_off() {
        let drain = Drain::new(CancellationToken::new());
        let (sender, gone) = tokio::sync::oneshot::channel::<()>();
        drain.spawn(async move {
            let _held = sender;
            std::future::pending::<()>().await;
        });
        assert!(!drain.finish(Duration::ZERO).await);
        assert!(gone.await.is_err(), "the task still holds its channel");
    }

    #[tokio::test]
    async fn tasks_that_heed_the_signal_end_by_themselves() {
        let drain = Drain::new(CancellationToken::new());
        let signal = drain.signal().clone();
        drain.spawn(async move { signal.cancelled().await });
        assert!(drain.finish(Duration::from_secs(60)).await);
    }

    #[tokio::test]
    async fn the_end_of_an_essential_task_is_seen() {
        let drain = Drain::new(CancellationToken::new());
        drain.spawn_essential(async {});
        assert!(!drain.until_signal_or_failure().await);
        drain.signal().cancel();
        assert!(drain.until_signal_or_failure().await);
    }
}
