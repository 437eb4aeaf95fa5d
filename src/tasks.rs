//! Background tasks: each goes on until the shutdown. One that stumbles over a bug is begun anew, since nobody else does
//! its work: a probe that is over would keep a store from ever being asked again, and the outbox from being emptied.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

/// A bug that shows itself at once must not cost a core.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs `task` on the current runtime until it returns or `shutdown` comes. What it leaves behind when it stumbles it has
/// to be able to go on from. That it did is counted and logged with its place where panics are (`report::log`).
pub fn keep<F>(name: &'static str, shutdown: &CancellationToken, task: impl Fn() -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + Send,
{
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        let kept = async {
            while AssertUnwindSafe(async { task().await }).catch_unwind().await.is_err() {
                tracing::error!(task = name, "A background task is begun anew");
                tokio::time::sleep(PAUSE).await;
            }
        };
        shutdown.run_until_cancelled(kept).await
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_stumbles_is_begun_anew_and_one_that_is_told_to_end_is_not() {
        let (begun, shutdown) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
        let counted = Arc::clone(&begun);
        keep("test", &shutdown, move || {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::task::yield_now().await;
                assert!(number >= 2, "told to stumble");
                std::future::pending::<()>().await;
            }
        });
        tokio::time::sleep(PAUSE * 10).await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
        shutdown.cancel();
        tokio::time::sleep(PAUSE * 10).await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_stumbles_before_its_first_wait_is_begun_anew_as_well() {
        let begun = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&begun);
        keep("test", &CancellationToken::new(), move || {
            assert!(counted.fetch_add(1, Ordering::Relaxed) > 0, "told to stumble");
            std::future::ready(())
        });
        tokio::time::sleep(PAUSE * 10).await;
        assert_eq!(begun.load(Ordering::Relaxed), 2, "what returns is done");
    }
}
