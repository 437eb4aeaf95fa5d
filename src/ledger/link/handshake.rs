//! What a server has to show before it is followed. Found out by asking, never by its name or version.

use futures_util::future::try_join_all;
use redis::{Pipeline, Value};

use super::canary::Canary;
use super::prefixes::WATERMARK;
use super::{Link, Trouble};
use crate::ledger::redis::{Connection, One, Sight, leads_elsewhere, of_error};
use crate::ledger::rule::Rule;
use crate::ledger::store::StoreError;

/// A connection that is tracked and nothing more has no limit to what Redis keeps for it: were we to hang, its memory
/// would grow without end. Among subscribers it is cut off at 32 MB, and that we notice.
const CHANNEL: &str = "pc:link";
const NAME: &str = "portcullis-link";

/// A key such as a rule asks for.
#[derive(Debug)]
pub struct Probe {
    rule: Box<str>,
    key: String,
}

/// One probe for each rule, and the watermark's.
pub fn probes<'a>(rules: impl Iterator<Item = &'a Rule>) -> Box<[Probe]> {
    let of_rule = |rule: &Rule| {
        let key = rule.redis.as_ref()?.key.fill(|_| Ok("probe".into())).ok()?;
        Some(Probe { rule: format!("rule `{}`", rule.name).into(), key })
    };
    let own = Probe { rule: "the watermark".into(), key: WATERMARK.to_owned() };
    rules.filter_map(of_rule).chain([own]).collect()
}

impl Link {
    /// Turns tracking on everywhere and finds out whether it works. Returns who the servers are to each other.
    pub(super) async fn shake_hands(&self, connection: &Connection) -> Result<Sight, Trouble> {
        let told = try_join_all(connection.each().map(|one| self.track(one))).await?;
        self.probe(connection).await?;
        if !Canary::prove(&self.redis, &self.ear, connection).await? {
            if told.contains(&false) {
                return Err(Trouble::refused(
                    "neither CLIENT TRACKINGINFO nor a key to write proves tracking",
                ));
            }
            tracing::info!("The canary cannot be written: that pushes arrive is not checked again");
        }
        // Behind the tracking: who takes changes from now on is one of those, or is seen to be none.
        Ok(connection.look().await?)
    }

    /// Turns it on at one server. Returns whether the server says so.
    async fn track(&self, one: &One) -> Result<bool, Trouble> {
        if let Err(error) = one.connection().subscribe(CHANNEL).await {
            if error.is_unrecoverable_error() {
                return Err(of_error(&error).into());
            }
            tracing::info!(
                channel = CHANNEL,
                "Redis lets us subscribe to nothing: it does not limit what it keeps for us should we hang"
            );
        }
        let mut setting_up = Pipeline::with_capacity(3);
        setting_up.cmd("CLIENT").arg("SETNAME").arg(NAME);
        let tracking = setting_up.cmd("CLIENT").arg("TRACKING").arg("ON").arg("BCAST");
        for prefix in self.prefixes.iter().filter(|prefix| !prefix.is_empty()) {
            tracking.arg("PREFIX").arg(&**prefix);
        }
        setting_up.cmd("CLIENT").arg("TRACKINGINFO");
        let replies = one.round_trip(&setting_up).await.map_err(|failure| failure.error)?;
        let [_, tracking, tracked] = &*replies else {
            return Err(StoreError::malformed("not one reply for each command").into());
        };
        if let Value::ServerError(error) = tracking {
            return Err(Trouble::refused(format_args!("CLIENT TRACKING is refused ({})", error.code())));
        }
        self.is_tracked(tracked)
    }

    /// Whether every key that a rule asks for may be read: Redis keeps quiet about changes of others (since 8.10), and
    /// an answer without the life of its key is not kept. Each server has users of its own, so each is asked for all,
    /// and most refer us to another then.
    pub(super) async fn probe(&self, connection: &Connection) -> Result<(), Trouble> {
        let mut probing = Pipeline::with_capacity(self.probes.len());
        for probe in &self.probes {
            probing.cmd("PTTL").arg(&probe.key);
        }
        let each = try_join_all(connection.each().map(|one| one.round_trip(&probing)));
        let each = tokio::time::timeout(self.patience(), each).await.map_err(|_| Trouble::Silent)?;
        let each = each.map_err(|failure| failure.error)?;
        for (probe, reply) in each.iter().flat_map(|replies| self.probes.iter().zip(replies)) {
            match reply {
                Value::ServerError(error) if error.code() == "NOPERM" => {
                    let rule = &probe.rule;
                    return Err(Trouble::refused(format_args!(
                        "the keys of {rule} may not be read with PTTL (NOPERM)"
                    )));
                }
                Value::ServerError(error) if !leads_elsewhere(reply) => {
                    return Err(StoreError::unavailable(error.code()).into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// `false` where it cannot be asked: then the canary has to tell.
    fn is_tracked(&self, info: &Value) -> Result<bool, Trouble> {
        let Value::Map(entries) = info else { return Ok(false) };
        let words = |name: &str| -> Vec<&[u8]> {
            let list = entries.iter().find(|(key, _)| text(key) == Some(name.as_bytes()));
            match list {
                Some((_, Value::Array(words) | Value::Set(words))) => words.iter().filter_map(text).collect(),
                _ => Vec::new(),
            }
        };
        let (flags, prefixes) = (words("flags"), words("prefixes"));
        let listed = |prefix: &str| prefix.is_empty() || prefixes.contains(&prefix.as_bytes());
        let on = flags.contains(&&b"on"[..]) && flags.contains(&&b"bcast"[..]);
        if on && self.prefixes.iter().all(|prefix| listed(prefix)) {
            Ok(true)
        } else {
            Err(Trouble::refused("CLIENT TRACKINGINFO does not show what was turned on"))
        }
    }
}

/// A replica hears of changes when its master gets round to it.
pub(super) fn is_master(role: &Value) -> Result<(), Trouble> {
    match role {
        Value::Array(parts) if parts.first().and_then(text) == Some(b"master") => Ok(()),
        Value::ServerError(error) if error.code() == "NOPERM" => {
            Err(Trouble::refused("ROLE may not be asked (NOPERM)"))
        }
        Value::ServerError(error) => Err(StoreError::unavailable(error.code()).into()),
        _ => Err(StoreError::unavailable("it is not the master").into()),
    }
}

fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.as_bytes()),
        _ => None,
    }
}
