//! Names of changed keys, as Redis pushes them: one connection that tracks the prefixes of the rules' keys.
//!
//! They are hints. While there is no connection nothing is told, and what waits too long is dropped: both change the
//! number of the session, and whoever must know everything looks for himself then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{IntoConnectionInfo as _, ProtocolVersion, PushInfo, PushKind, Value};
use tokio::sync::{Notify, mpsc};

use crate::ledger::settings::RedisSettings;

/// Names that may wait for whoever looks into them.
const WAITING: usize = 16 * 1024;
/// How often it is looked whether the connection still answers, and pause between two attempts to connect.
const PROBE: Duration = Duration::from_secs(1);

/// Whether names are being told: the number of the present connection, and of the times that some were dropped.
pub type Session = Arc<dyn Fn() -> Option<u64> + Send + Sync>;

/// What is told.
pub struct Pushes {
    pub names: mpsc::Receiver<Vec<u8>>,
    pub session: Session,
}

#[derive(Default)]
struct State {
    /// Even: not connected.
    connections: AtomicU64,
    dropped: AtomicU64,
    gone: Notify,
}

/// Starts listening; ends when `Pushes` is dropped, or the task.
pub fn listen(settings: &RedisSettings, prefixes: Vec<String>) -> (Pushes, impl Future<Output = ()> + use<>) {
    let (sender, names) = mpsc::channel(WAITING);
    let state = Arc::new(State::default());
    let seen = Arc::clone(&state);
    let session = Arc::new(move || {
        let connections = seen.connections.load(Ordering::Acquire);
        let dropped = seen.dropped.load(Ordering::Acquire);
        (connections % 2 == 1).then_some(connections.wrapping_add(dropped << 32))
    });
    let url = settings.url.clone();
    let task = async move {
        loop {
            // The causes are told by whoever asks questions of the same Redis.
            let _ = attend(&url, &prefixes, &sender, &state).await;
            if state.connections.load(Ordering::Acquire) % 2 == 1 {
                state.connections.fetch_add(1, Ordering::AcqRel);
            }
            tokio::time::sleep(PROBE).await;
        }
    };
    (Pushes { names, session }, task)
}

/// Connects, and returns when the connection is gone.
async fn attend(
    url: &str,
    prefixes: &[String],
    sender: &mpsc::Sender<Vec<u8>>,
    state: &Arc<State>,
) -> redis::RedisResult<()> {
    let info = url.into_connection_info()?;
    let resp3 = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let client = redis::Client::open(info.set_redis_settings(resp3))?;
    let (sender, told) = (sender.clone(), Arc::clone(state));
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PROBE * 2))
        .set_response_timeout(Some(PROBE * 2))
        .set_push_sender(move |push: PushInfo| {
            hear(push, &sender, &told);
            Ok::<(), ()>(())
        });
    let mut link = client.get_multiplexed_async_connection_with_config(&config).await?;
    let mut track = redis::cmd("CLIENT");
    track.arg("TRACKING").arg("ON").arg("BCAST");
    for prefix in prefixes {
        track.arg("PREFIX").arg(prefix);
    }
    track.query_async::<()>(&mut link).await?;
    state.connections.fetch_add(1, Ordering::AcqRel);
    loop {
        tokio::select! {
            () = state.gone.notified() => return Ok(()),
            () = tokio::time::sleep(PROBE) => redis::cmd("PING").query_async::<()>(&mut link).await?,
        }
    }
}

fn hear(push: PushInfo, sender: &mpsc::Sender<Vec<u8>>, state: &State) {
    match (push.kind, push.data.into_iter().next()) {
        (PushKind::Invalidate, Some(Value::Array(names))) => {
            for name in names {
                if let Value::BulkString(name) = name
                    && sender.try_send(name).is_err()
                {
                    state.dropped.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
        (PushKind::Disconnection, _) => state.gone.notify_one(),
        _ => {}
    }
}
