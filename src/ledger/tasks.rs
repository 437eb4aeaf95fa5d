//! The ledger's own tasks.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Ledger;
use crate::tasks;

impl Ledger {
    /// [`tasks::keep`] for a task of the ledger's own.
    pub(super) fn keep<F>(
        self: &Arc<Self>,
        name: &'static str,
        shutdown: &CancellationToken,
        task: impl Fn(Arc<Self>) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send,
    {
        let ledger = Arc::clone(self);
        tasks::keep(name, shutdown, move || task(Arc::clone(&ledger)));
    }
}
