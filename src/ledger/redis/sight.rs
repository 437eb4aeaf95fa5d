//! What the nodes of a cluster know of its primaries. It is read with every fence: who is asked for changes must be who
//! takes them, and a replica that was promoted, or a node that slots are on their way to, takes them from one moment to
//! the next.
//!
//! Nothing is promoted behind the primaries' backs: more than half of them have called the old one failed, and voted,
//! before the new one takes its first write. So if after a change all of them still say what they said when the links
//! to them were made, that change was made on one of those links' servers.

use std::fmt::Write as _;

use redis::Value;

use super::of_error;
use crate::ledger::store::StoreError;

/// What all nodes said when they agreed. Of a single server: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight(Option<String>);

/// What one node says, from `CLUSTER NODES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// Its own id.
    pub me: String,
    /// Every primary that serves slots: which, since when (its configuration epoch), and whether it is called failed.
    /// The same text on every node that knows the same.
    primaries: String,
    ids: Vec<String>,
    /// Whether slots of its own are on their way to or from another node.
    moves: bool,
    failed: bool,
}

impl View {
    /// Reads the reply; what stands in it of replicas, of pings and of addresses may change as it likes.
    pub fn read(reply: Value) -> Result<Self, StoreError> {
        let malformed = || StoreError::malformed("what a node of the cluster knows");
        let reply = reply.extract_error().map_err(|error| match error.code() {
            Some("NOPERM") => StoreError::unavailable("CLUSTER NODES may not be asked (NOPERM)"),
            _ => of_error(&error),
        })?;
        let text: String = redis::from_redis_value(reply).map_err(|_| malformed())?;
        let (mut me, mut moves, mut failed, mut primaries) = (None, false, false, Vec::new());
        for line in text.lines() {
            // <id> <address> <flags> <primary> <ping> <pong> <epoch> <link> <slots…>
            let mut words = line.split_ascii_whitespace();
            let (Some(id), Some(flags), Some(epoch)) = (words.next(), words.nth(1), words.nth(3)) else {
                return Err(malformed());
            };
            let is = |wanted: &str| flags.split(',').any(|flag| flag == wanted);
            if is("myself") {
                me = Some(id.to_owned());
            }
            // `[slot->-id]`, `[slot-<-id]`: told by the node itself alone.
            let (moving, slots): (Vec<_>, Vec<_>) = words.skip(1).partition(|word| word.starts_with('['));
            moves |= !moving.is_empty();
            if is("master") && !slots.is_empty() {
                failed |= is("fail");
                primaries.push((id.to_owned(), epoch, is("fail"), slots.join(",")));
            }
        }
        primaries.sort_unstable();
        let mut said = String::new();
        for (id, epoch, failed, slots) in &primaries {
            let _ = writeln!(said, "{id} {epoch} {failed} {slots}");
        }
        let ids = primaries.into_iter().map(|(id, ..)| id).collect();
        Ok(Self { me: me.ok_or_else(malformed)?, primaries: said, ids, moves, failed })
    }
}

impl Sight {
    /// Whether a node still says what all of them said.
    pub(super) fn is_as(&self, view: &View) -> bool {
        !view.moves && self.0.as_ref() == Some(&view.primaries)
    }
}

/// What all primaries say, if they say the same, nothing is on its way, and nobody else is a primary.
pub(super) fn agree(views: &[View]) -> Result<Sight, StoreError> {
    let unsettled = |what| Err(StoreError::unavailable(what));
    let Some(first) = views.first() else { return unsettled("the cluster has no primaries") };
    let mut asked: Vec<_> = views.iter().map(|view| &view.me).collect();
    asked.sort_unstable();
    match views {
        _ if views.iter().any(|view| view.moves) => unsettled("slots of the cluster are on their way"),
        _ if first.failed => unsettled("a primary of the cluster is called failed"),
        _ if views.iter().any(|view| view.primaries != first.primaries) => {
            unsettled("the nodes of the cluster do not agree on its primaries")
        }
        _ if !asked.into_iter().eq(&first.ids) => unsettled("the cluster has other primaries"),
        _ => Ok(Sight(Some(first.primaries.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "a 127.0.0.1:1@11 master - 0 1795258271678 1 connected 0-99 200";
    const B: &str = "b 127.0.0.1:2@12,host master - 5 1795258271000 2 connected 100-199 201-16383";
    const REPLICA: &str = "c 127.0.0.1:3@13 slave,fail? a 0 1795258271678 1 connected";
    const EMPTY: &str = "d 127.0.0.1:4@14 master - 0 1795258271678 0 connected";

    /// What `me` says, with these lines.
    fn view(me: &str, lines: &[&str]) -> View {
        let mine = |line: &&str| match line.strip_prefix(me).filter(|rest| rest.starts_with(' ')) {
            Some(_) => line.replacen("master", "myself,master", 1),
            None => (*line).to_owned(),
        };
        let text = lines.iter().map(mine).collect::<Vec<_>>().join("\n");
        View::read(Value::BulkString(text.into_bytes())).expect("a view")
    }

    #[test]
    fn primaries_agree_whatever_they_say_of_pings_replicas_and_the_order() {
        let sight = agree(&[view("a", &[A, B]), view("b", &[REPLICA, B, EMPTY, A])]).expect("they agree");
        assert!(sight.is_as(&view("b", &[&A.replace("1795258271678", "7"), &B.replace("@12,host", "@12")])));
        for (what, lines) in [
            ("another epoch", [A.replace(" 1 connected", " 3 connected"), B.to_owned()]),
            ("another slot", [A.replace("0-99", "0-98"), B.to_owned()]),
            ("one gone", [A.to_owned(), String::new()]),
            ("one failed", [A.to_owned(), B.replace("master", "master,fail")]),
            ("a slot on its way", [format!("{A} [7->-b]"), B.to_owned()]),
            ("another id", [A.replace("a 127", "e 127"), B.to_owned()]),
        ] {
            let lines: Vec<_> = lines.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
            let me = if what == "another id" { "b" } else { "a" };
            assert!(!sight.is_as(&view(me, &lines)), "{what}");
        }
        let doubt = &[A, &B.replace("master", "master,fail?")];
        assert!(sight.is_as(&view("a", doubt)), "the doubt of one is no failure");
    }

    #[test]
    fn nothing_is_settled_while_slots_move_somebody_has_failed_or_another_is_not_asked() {
        let both = [view("a", &[A, B]), view("b", &[A, B])];
        assert!(agree(&both).is_ok());
        assert!(agree(&both[..1]).is_err(), "b is not asked");
        assert!(agree(&[]).is_err());
        assert!(agree(&[view("a", &[A, &B.replace("100-199", "101-199")]), both[1].clone()]).is_err());
        let failed = B.replace("master", "master,fail");
        assert!(agree(&[view("a", &[A, &failed]), view("b", &[A, &failed])]).is_err());
        let coming = format!("{B} [7-<-a]");
        assert!(agree(&[both[0].clone(), view("b", &[A, &coming])]).is_err());
        let leaving = format!("{A} [7->-d]");
        assert!(agree(&[view("a", &[&leaving, B, EMPTY]), both[1].clone()]).is_err(), "to one without slots");
    }

    #[test]
    fn what_is_no_list_of_nodes_is_no_view() {
        assert!(View::read(Value::Nil).is_err());
        assert!(View::read(Value::BulkString(b"a b".to_vec())).is_err());
        assert!(View::read(Value::BulkString(A.as_bytes().to_vec())).is_err(), "nobody says it");
    }
}
