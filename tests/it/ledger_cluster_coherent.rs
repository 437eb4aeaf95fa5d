//! Memory that follows a cluster: every primary is heard, and none is believed that is not the primary any more.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::coherent::calls;
use crate::ledger_common::{World, becomes, lookups, metric, presets, readiness_becomes, verdict};
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::redis::Reply;

/// `[ledger] max_staleness`, as it is unless told otherwise.
const STALENESS: Duration = Duration::from_millis(500);

/// A rule that Redis alone can answer: whatever memory missed nobody else makes good.
const ALONE: &str = "[ledger]\npresets = [\"native\"]\nadopt = false\n[[ledger.rules]]\nname = \"frozen\"\nguards = \"user\"\n\
                     key = \"frozen:{sub}\"\ndeny_if = \"exists\"\n";

fn section(cluster: &Cluster) -> String {
    format!("{}timeout = \"1s\"\n", cluster.config_toml(&[0, 1, 2]))
}

fn start(world: &World, cluster: &Cluster, ledger: &str) -> Gateway {
    let gateway = world.start(&[&section(cluster), ledger]);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    gateway
}

/// One user of each primary.
fn users(cluster: &Cluster) -> [String; 3] {
    let of = |node| (100..).map(|user| user.to_string()).find(|user| cluster.owner(&frozen(user)) == node);
    [0, 1, 2].map(|node| of(node).unwrap())
}

fn frozen(user: &str) -> String {
    format!("frozen:{user}")
}

/// From when a key was written until it is obeyed nobody may pass who asked later than memory may be stale.
fn denied_in_time(gateway: &Gateway, token: &str, written: Instant) {
    eventually("the ban is enforced", || {
        let asked = Instant::now();
        match verdict(gateway, token).as_str() {
            "403 frozen" => Ok(()),
            "200" => {
                let late = asked.saturating_duration_since(written);
                assert!(late <= STALENESS, "passed {late:?} after the ban");
                Err("200".to_owned())
            }
            other if other == "503 ledger_unavailable" => Err(other.to_owned()),
            other => panic!("{other}"),
        }
    });
}

#[test]
fn a_hot_request_asks_no_node_for_anything_and_a_ban_typed_into_any_of_them_counts_at_once() {
    let (world, cluster) = (World::new(), Cluster::start(&[]));
    let here = start(&world, &cluster, ALONE);
    let there = start(&world, &cluster, ALONE);
    let faltered = || metric(&here, "portcullis_mode_transitions_total{mode=\"direct\"}");
    let at_start = faltered();
    let users = users(&cluster);
    let tokens = users.each_ref().map(|user| world.issuer.good(user));
    let asked = || {
        let of = |node| ["pttl", "exists"].map(|command| calls(node, command)).iter().sum::<u64>();
        cluster.nodes.iter().map(of).sum::<u64>()
    };
    eventually("nothing is asked any more", || {
        let before = asked();
        tokens.iter().for_each(|token| assert_eq!(verdict(&here, token), "200"));
        if asked() == before { Ok(()) } else { Err(before) }
    });
    let (before, hits) = (asked(), lookups(&here, "memory", "hit"));
    for _ in 0..50 {
        tokens.iter().for_each(|token| assert_eq!(verdict(&here, token), "200"));
    }
    assert_eq!(asked(), before);
    assert!(lookups(&here, "memory", "hit") >= hits + 150.0);
    for (user, token) in users.iter().zip(&tokens) {
        for gateway in [&here, &there] {
            assert_eq!(verdict(gateway, token), "200");
        }
        let written = Instant::now();
        cluster.cmd(&["SET", &frozen(user), "1", "EX", "60"]);
        for gateway in [&here, &there] {
            denied_in_time(gateway, token, written);
        }
        cluster.cmd(&["DEL", &frozen(user)]);
        for gateway in [&here, &there] {
            becomes(gateway, token, "200");
        }
    }
    assert_eq!(faltered(), at_start, "memory was believed all the while");
}

#[test]
fn a_link_to_one_primary_that_is_cut_or_hangs_costs_belief_in_all_and_no_ban() {
    let (world, cluster) = (World::new(), Cluster::start(&[]));
    let gateway = start(&world, &cluster, ALONE);
    for (node, user) in users(&cluster).iter().enumerate() {
        let token = world.issuer.good(user);
        becomes(&gateway, &token, "200");
        let before = metric(&gateway, "portcullis_memory_generations_total");
        cluster.nodes[node].cmd(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        let written = Instant::now();
        cluster.cmd(&["SET", &frozen(user), "1"]);
        denied_in_time(&gateway, &token, written);
        assert!(metric(&gateway, "portcullis_memory_generations_total") > before);
        readiness_becomes(&gateway, 200, "ready", "coherent");
        cluster.cmd(&["DEL", &frozen(user)]);
        becomes(&gateway, &token, "200");

        let hung = cluster.nodes[node].stop_cont();
        let stopped = Instant::now();
        eventually("a server that hangs is not believed", || {
            let asked = Instant::now();
            match verdict(&gateway, &token).as_str() {
                "200" if asked < stopped + STALENESS => Err("200"),
                "503 ledger_unavailable" => Ok(()),
                other => panic!("{other} after {:?}", asked - stopped),
            }
        });
        drop(hung);
        becomes(&gateway, &token, "200");
        readiness_becomes(&gateway, 200, "ready", "coherent");
    }
}

#[test]
fn replicas_that_are_promoted_are_followed_and_the_primaries_they_replace_are_not() {
    let (world, mut cluster) = (World::new(), Cluster::start_with_replicas(&[]));
    let gateway = start(&world, &cluster, ALONE);
    let plain = start(&world, &cluster, &presets(&["native", "invalid-users"]));
    let user = users(&cluster)[0].clone();
    let (token, banned) = (world.issuer.good(&user), world.issuer.good("8"));
    plain.ban("8");
    let both = |when: &str| {
        assert_eq!(verdict(&plain, &banned), "403 user_banned", "{when}");
        assert_eq!(verdict(&plain, &token), "200", "{when}");
    };
    both("before");
    becomes(&gateway, &token, "200");
    // As planned, and back again.
    for (old, new) in [(0, 3), (3, 0)] {
        cluster.fail_over(new);
        let written = Instant::now();
        cluster.nodes[new].cmd(&["SET", &frozen(&user), "1"]);
        denied_in_time(&gateway, &token, written);
        both("while another is the primary");
        settle(&cluster, old, [&gateway, &plain]);
        both("afterwards");
        denied_in_time(&gateway, &token, Instant::now());
        cluster.nodes[new].cmd(&["DEL", &frozen(&user)]);
        becomes(&gateway, &token, "200");
    }
    // By the death of the primary.
    cluster.nodes[0].kill();
    both("with a primary killed");
    cluster.is_promoted(3);
    let written = Instant::now();
    cluster.follow(&["SET", &frozen(&user), "1"]);
    denied_in_time(&gateway, &token, written);
    both("with its replica promoted");
    cluster.nodes[0].restart();
    settle(&cluster, 0, [&gateway, &plain]);
    both("with all of them back");
    denied_in_time(&gateway, &token, Instant::now());
}

/// Polls until the old primary follows the new one, and the gateways believe what they remember.
fn settle(cluster: &Cluster, old: usize, gateways: [&Gateway; 2]) {
    cluster.is_well();
    cluster.follows(old);
    for gateway in gateways {
        readiness_becomes(gateway, 200, "ready", "coherent");
    }
}

#[test]
fn a_primary_that_was_replaced_while_it_hung_is_not_believed_when_it_answers_again() {
    let (world, cluster) = (World::new(), Cluster::start_with_replicas(&[]));
    let gateway = start(&world, &cluster, ALONE);
    let user = users(&cluster)[1].clone();
    let token = world.issuer.good(&user);
    becomes(&gateway, &token, "200");
    let hung = cluster.nodes[1].stop_cont();
    cluster.is_promoted(4);
    cluster.nodes[4].cmd(&["SET", &frozen(&user), "1"]);
    let written = Instant::now();
    drop(hung);
    denied_in_time(&gateway, &token, written);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    denied_in_time(&gateway, &token, Instant::now());
}

#[test]
fn a_key_that_is_written_where_its_slot_is_going_to_is_not_missed() {
    let (world, mut cluster) = (World::new(), Cluster::start(&[]));
    let gateway = start(&world, &cluster, ALONE);
    let user = users(&cluster)[2].clone();
    let (token, key) = (world.issuer.good(&user), frozen(&user));
    let slot = cluster.slot(&key).to_string();
    // Nobody has a link to the newcomer: it serves nothing yet, and takes what is not there where it was.
    let new = cluster.join();
    readiness_becomes(&gateway, 200, "ready", "coherent");
    becomes(&gateway, &token, "200");
    cluster.begin_move(&slot, 2, new);
    let taken = Redirected::set(&cluster, new, &key);
    eventually("nobody passes who was banned on the newcomer", || {
        let asked = Instant::now();
        match verdict(&gateway, &token).as_str() {
            "200" if asked <= taken + STALENESS => Err("200"),
            "403 frozen" | "503 ledger_unavailable" => Ok(()),
            other => panic!("{other}, {:?} after the ban", asked - taken),
        }
    });
    cluster.move_keys(&slot, 2, new, || ());
    cluster.end_move(&slot, 2, new, || ());
    readiness_becomes(&gateway, 200, "ready", "coherent");
    denied_in_time(&gateway, &token, Instant::now());
    cluster.nodes[new].cmd(&["DEL", &key]);
    becomes(&gateway, &token, "200");
    assert_eq!(cluster.nodes.len(), 4);
}

struct Redirected;

impl Redirected {
    /// Writes a key as a client does that was sent there with `ASK`; returns when it was acknowledged.
    fn set(cluster: &Cluster, new: usize, key: &str) -> Instant {
        let Reply::Error(told) = cluster.nodes[2].try_cmd(&["SET", key, "1"]).unwrap() else {
            panic!("it was not sent elsewhere")
        };
        assert!(told.starts_with("ASK ") && told.ends_with(&cluster.nodes[new].port().to_string()), "{told}");
        assert_eq!(cluster.follow(&["SET", key, "1"]), Reply::Text("OK".into()));
        Instant::now()
    }
}

/// Ends the load, also when a test fails: the others would go on for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A user whom another service bans and lets in again, by Redis alone.
struct Person {
    token: String,
    key: String,
    /// Since when, and whether they are banned; `None` while that is changing.
    standing: Mutex<(Instant, Option<bool>)>,
}

impl Person {
    fn note(&self, banned: Option<bool>) {
        *self.standing.lock().unwrap() = (Instant::now(), banned);
    }

    /// What has stood for longer than memory may be stale.
    fn settled(&self, asked: Instant) -> Option<(Instant, bool)> {
        let (since, banned) = *self.standing.lock().unwrap();
        banned.filter(|_| since + STALENESS <= asked).map(|banned| (since, banned))
    }
}

#[test]
fn while_slots_move_under_load_every_ban_and_every_lifting_counts_in_time() {
    let (world, cluster) = (World::new(), Cluster::start(&[]));
    let gateway = start(&world, &cluster, ALONE);
    let people: Vec<Person> = (0..9)
        .map(|n| Person {
            token: world.issuer.good(&format!("p{n}")),
            key: frozen(&format!("p{n}")),
            standing: Mutex::new((Instant::now(), Some(false))),
        })
        .collect();
    let (over, passed, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _over = Over(&over);
                for person in people.iter().cycle().take_while(|_| !over.load(Ordering::Relaxed)) {
                    let asked = Instant::now();
                    let before = person.settled(asked);
                    let verdict = verdict(&gateway, &person.token);
                    let counter = if verdict == "200" { &passed } else { &refused };
                    counter.fetch_add(1, Ordering::Relaxed);
                    assert!(["200", "403 frozen", "503 ledger_unavailable"].contains(&verdict.as_str()));
                    if let Some((since, banned)) = before.filter(|it| person.settled(asked) == Some(*it)) {
                        let wrong = if banned { "200" } else { "403 frozen" };
                        assert_ne!(verdict, wrong, "banned: {banned} for {:?}", asked - since);
                    }
                }
            });
        }
        scope.spawn(|| {
            let _over = Over(&over);
            for (turn, person) in people.iter().cycle().enumerate() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let banned = (turn / people.len()).is_multiple_of(2);
                person.note(None);
                let words: &[&str] = if banned { &["SET", &person.key, "1"] } else { &["DEL", &person.key] };
                cluster.follow(words);
                person.note(Some(banned));
                crate::support::pause(Duration::from_millis(60));
            }
        });
        let _over = Over(&over);
        // Everybody's slot to the next node, and once more around.
        for lap in 0..3 {
            for person in &people {
                let slot = cluster.slot(&person.key).to_string();
                let home = cluster.owner(&person.key);
                let (from, to) = ((home + lap) % 3, (home + lap + 1) % 3);
                cluster.begin_move(&slot, from, to);
                cluster.move_keys(&slot, from, to, || ());
                cluster.end_move(&slot, from, to, || ());
                crate::support::pause(Duration::from_millis(100));
            }
            readiness_becomes(&gateway, 200, "ready", "coherent");
            // Long enough for memory to be wrong, were it.
            crate::support::pause(STALENESS * 2);
        }
    });
    let (passed, refused) = (passed.into_inner(), refused.into_inner());
    assert!(passed > 100 && refused > 100, "too little happened: {passed} passed, {refused} refused");
}
