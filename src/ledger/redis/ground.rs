//! The ground of a cluster's node: a key that lies on it and is read with every question. A node that was emptied has
//! lost it; then what it does not know means nothing, and nobody else would notice: no other node has lost anything.

use redis::Value;

use super::connection::One;
use super::script::{Form, Lua};
use super::slots::tag_of;
use crate::ledger::store::StoreError;

/// Where one lies, and what stands there.
#[derive(Debug, PartialEq)]
pub(super) struct Ground {
    pub key: String,
    /// Tells one life of the node from another: it is kept when slots move, and lost when the node is emptied.
    pub value: String,
}

/// Put there unless somebody has written something else than was read; what stands there then.
static SETTLE: Lua = Lua::new(
    r"
local value = redis.call('GET', KEYS[1]) or ''
if value ~= ARGV[1] then return value end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
",
);

impl Ground {
    /// Finds the ground of a node, or lays it. It lies in several `slots`, so that it is found again when one of them
    /// has moved; such a slot takes its copy along, so each bears the node's `id`. Everybody looks in the same slots: two
    /// who did not would each take the other's ground for a loss, for ever.
    ///
    /// A copy that comes back with its slot may be from before the node was emptied. So one alone is the ground only where
    /// it is the `known` one.
    pub async fn lay(one: &One, id: &str, slots: &[u16], known: Option<&str>) -> Result<Self, StoreError> {
        let mut copies = Vec::with_capacity(slots.len());
        let mut trouble = StoreError::malformed("a node without slots");
        for slot in slots {
            let key = format!("pc:ground:{{{}}}", tag_of(*slot));
            match one.ask(redis::cmd("GET").arg(&key)).await {
                Ok(reply) => copies.push((key, text(reply)?)),
                // A slot on its way answers with an error, and so does one that is not there any more.
                Err(error) => trouble = error,
            }
        }
        let fresh = || format!("{id}:{}", uuid::Uuid::new_v4().simple());
        let found = copies.iter().map(|(_, copy)| copy.as_str()).collect::<Vec<_>>();
        let mut value = settled(&found, id, known).map_or_else(fresh, str::to_owned);
        let mut ground = None;
        for (key, found) in copies {
            let mut command = SETTLE.command(Form::Text);
            let stands = text(one.ask(command.arg(1).arg(&key).arg(&found).arg(&value)).await?)?;
            match ground {
                // Somebody else was faster, and has laid it everywhere before long.
                None => ground = Some(Self { key, value: stands.clone() }),
                Some(_) if stands != value => {
                    return Err(StoreError::unavailable("somebody lays the ground"));
                }
                Some(_) => {}
            }
            value = stands;
        }
        ground.ok_or(trouble)
    }
}

/// What is to be believed of copies that were found; empty: there is none.
fn settled<'a>(copies: &[&'a str], id: &str, known: Option<&'a str>) -> Option<&'a str> {
    let is_ours = |copy: &str| copy.strip_prefix(id).is_some_and(|rest| rest.starts_with(':'));
    let said = |wanted: &str| copies.iter().filter(|copy| **copy == wanted).count();
    let by_most = copies.iter().copied().find(|copy| is_ours(copy) && said(copy) * 2 > copies.len());
    by_most.or(known.filter(|known| said(known) > 0))
}

fn text(reply: Value) -> Result<String, StoreError> {
    match reply {
        Value::Nil => Ok(String::new()),
        reply => redis::from_redis_value(reply).map_err(|_| StoreError::malformed("what marks a node")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_believed_where_most_say_the_same_or_it_is_known() {
        assert_eq!(settled(&["a:1", "a:1", "a:1"], "a", None), Some("a:1"));
        assert_eq!(settled(&["", "a:1", "a:1"], "a", None), Some("a:1"), "a slot has come");
        assert_eq!(settled(&["", "a:1", ""], "a", None), None, "the node may have been emptied");
        assert_eq!(settled(&["", "a:1", "b:1"], "a", Some("a:1")), Some("a:1"), "slots have moved");
        assert_eq!(settled(&["a:2", "a:1", "a:2"], "a", Some("a:1")), Some("a:2"), "somebody laid it anew");
        assert_eq!(settled(&["a:2", "", ""], "a", Some("a:1")), None);
        assert_eq!(settled(&["b:1", "b:1"], "a", None), None, "it came with its slots");
        assert_eq!(settled(&["", ""], "a", Some("a:1")), None);
        assert_eq!(settled(&[], "a", Some("a:1")), None);
    }
}
