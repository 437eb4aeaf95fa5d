//! PostgreSQL's LISTEN: wakes whoever reads `portcullis_changes`.

use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder as _;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Notify;

/// Longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Listens for ever, on a connection of its own: those of the pool are for questions.
///
/// `woken` is rung with every notification, and after every connection: what was announced while there was none has to
/// be looked for.
pub async fn listen(url: String, woken: Arc<Notify>) {
    let delays = || {
        backon::ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(LONGEST_PAUSE)
            .without_max_times()
            .build()
    };
    let mut pauses = delays();
    loop {
        match connect(&url).await {
            Ok(mut listener) => {
                pauses = delays();
                woken.notify_one();
                // `Ok(None)`: the connection is gone.
                while let Ok(Some(_)) = listener.try_recv().await {
                    woken.notify_one();
                }
                tracing::debug!("No longer told of changes; connecting again");
            }
            // sqlx's own words may repeat the URL.
            Err(_) => tracing::debug!("Nobody tells of changes yet; they are looked for instead"),
        }
        tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

async fn connect(url: &str) -> Result<PgListener, sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(Duration::from_secs(5))
        .connect(url)
        .await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen("portcullis_changes").await?;
    Ok(listener)
}
