//! Three gateways under load while Redis is killed, flushed, paused, swapped and restarted from an old snapshot, and users
//! are banned and activated at random, through a gateway, in the table alone, and as services do it: no request of a
//! banned user passes later than is promised, and no clean user is refused. `CHAOS_SECONDS` makes it last longer,
//! `CHAOS_SEED` repeats what a failure printed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::feed_tables::migrate;
use crate::ledger_common::{World, patient, presets, verdict};
use crate::support::cluster::Cluster;
use crate::support::gateway::Gateway;
use crate::support::postgres::{Database, Postgres};
use crate::support::redis::{Redis, Reply};
use crate::support::{pause, unique};

/// `[ledger] max_staleness`, as it is unless told otherwise.
const STALENESS: Duration = Duration::from_millis(500);
const USERS: usize = 12;
const ASKERS: usize = 4;
/// Between two changes whose effects take their time to be seen.
const RARELY: Duration = Duration::from_millis(700);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Standing {
    Clean,
    Banned,
    /// A change is under way.
    Changing,
}

/// Who bans and activates a user.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// A gateway is told.
    Told,
    /// Somebody types it into the table, whose triggers tell the gateways.
    Typed,
    /// A service writes its table and then Redis, or the other way round, and forgets what Redis does not take.
    Service,
}

impl Way {
    /// How long after the acknowledgement a change counts at the latest. Twice what is promised where somebody has to hear
    /// of it first; and a service may be between its two writes for a while.
    fn patience(self, standing: Standing) -> Duration {
        match (self, standing) {
            (Self::Told, _) => STALENESS,
            (Self::Typed, _) | (Self::Service, Standing::Banned) => Duration::from_secs(2),
            (Self::Service, _) => Duration::from_secs(6),
        }
    }
}

/// A user, with every change and the instant it was begun or acknowledged.
struct Person {
    name: String,
    way: Way,
    token: String,
    history: Mutex<Vec<(Instant, Standing)>>,
}

impl Person {
    fn note(&self, standing: Standing) {
        self.history.lock().unwrap().push((Instant::now(), standing));
    }

    /// What was acknowledged long enough before `asked` and stood unchanged until now.
    fn settled(&self, asked: Instant) -> Option<Standing> {
        let (since, standing) = *self.history.lock().unwrap().last().unwrap();
        let counts = since + self.way.patience(standing);
        (counts <= asked && standing != Standing::Changing).then_some(standing)
    }
}

/// Small and repeatable; nothing here needs better (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % bound
    }
}

#[derive(Default)]
struct Tally {
    passed: AtomicUsize,
    refused: AtomicUsize,
    unavailable: AtomicUsize,
    faults: Mutex<Vec<String>>,
}

#[test]
fn whatever_happens_to_redis_no_banned_user_passes_and_no_clean_user_is_refused() {
    let mut redis = Redis::start();
    let section = redis.config_toml();
    let scene = Scene { redis: &section, presets: &["native", "invalid-users"], ways: &[Way::Told], port: 0 };
    under_load(&scene, |dice, until| torment(&mut redis, dice, until));
}

#[test]
fn whoever_bans_and_activates_and_whatever_happens_to_redis_meanwhile_it_counts_soon() {
    let mut redis = Redis::start();
    let (section, port) = (redis.config_toml(), redis.port());
    let ways = [Way::Told, Way::Typed, Way::Service];
    let scene = Scene { redis: &section, presets: &["invalid-users"], ways: &ways, port };
    under_load(&scene, |dice, until| torment(&mut redis, dice, until));
}

#[test]
fn whatever_happens_to_a_cluster_no_banned_user_passes_and_no_clean_user_is_refused() {
    let mut cluster = Cluster::start_with_replicas(&[]);
    let section = cluster.config_toml(&[0, 1, 2]);
    let scene = Scene { redis: &section, presets: &["native", "invalid-users"], ways: &[Way::Told], port: 0 };
    under_load(&scene, |dice, until| torment_all(&mut cluster, dice, until));
}

struct Scene<'a> {
    /// `[redis]`.
    redis: &'a str,
    presets: &'a [&'a str],
    /// The users take turns.
    ways: &'a [Way],
    /// Where services write.
    port: u16,
}

/// Ends what goes on beside it, however it ends itself.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Three gateways over this Redis, asked and told all the while that it is tormented.
fn under_load(scene: &Scene<'_>, torment: impl FnOnce(Dice, Instant) -> Vec<String>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let lasts = Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(12));
    let seed = number("CHAOS_SEED").unwrap_or_else(|| crate::support::now() | 1);
    let world = World::new();
    let database = Postgres::shared().create_database();
    database.psql(
        "CREATE TABLE users (user_id text PRIMARY KEY, status text NOT NULL DEFAULT 'active', \
         status_updated_at timestamptz, last_security_action timestamptz)",
    );
    let ways = scene.ways.iter().cycle();
    let people: Vec<Person> = ways.take(USERS).map(|way| person(&world, *way)).collect();
    for person in &people {
        database.psql(&format!("INSERT INTO users (user_id) VALUES ('{}')", person.name));
    }
    let sections = [scene.redis.to_owned(), patient(&database), presets(scene.presets)];
    let setup = world.setup(&sections.each_ref().map(String::as_str)).log("level = \"info\"");
    migrate(&setup, &["--watch-users"]);
    let gateways = [setup.start(), setup.start(), setup.start()];
    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for asker in 0..ASKERS {
            let (people, gateways, tally, over) = (&people, &gateways, &tally, &over);
            scope.spawn(move || {
                let mut dice = Dice(seed.wrapping_mul(31).wrapping_add(asker as u64) | 1);
                while !over.load(Ordering::Relaxed) {
                    ask(&people[dice.below(USERS)], &gateways[dice.below(gateways.len())], tally);
                }
            });
        }
        let _ends = Ends(&over);
        // Whoever waits for a Redis that hangs keeps nobody else waiting.
        for (place, way) in scene.ways.iter().enumerate() {
            let (people, gateways, over, database) = (&people, &gateways, &over, &database);
            scope.spawn(move || {
                let mut dice = Dice(seed.wrapping_mul(37).wrapping_add(place as u64) | 1);
                let people: Vec<&Person> = people.iter().filter(|person| person.way == *way).collect();
                while !over.load(Ordering::Relaxed) {
                    let (person, gateway) =
                        (people[dice.below(people.len())], &gateways[dice.below(gateways.len())]);
                    change(person, gateway, database, scene.port, &mut dice);
                    pause(if *way == Way::Told { Duration::from_millis(20) } else { RARELY });
                }
            });
        }
        let trouble = torment(Dice(seed.rotate_left(17) | 1), Instant::now() + lasts);
        eprintln!("seed {seed}: {}", trouble.join(", "));
    });
    let faults = tally.faults.into_inner().unwrap();
    let (passed, refused) = (tally.passed.into_inner(), tally.refused.into_inner());
    let unavailable = tally.unavailable.into_inner();
    eprintln!("{passed} passed, {refused} refused, {unavailable} unavailable");
    assert!(
        faults.is_empty(),
        "CHAOS_SEED={seed}: {} faults, such as\n{}",
        faults.len(),
        faults[..faults.len().min(10)].join("\n")
    );
    // However little a busy machine comes to in the time: what it does is as true.
    assert!(passed > 0 && refused > 0, "too little happened: {passed} passed, {refused} refused");
    // The database was well all the time: nobody was ever blind.
    assert_eq!(unavailable, 0, "CHAOS_SEED={seed}");
}

fn person(world: &World, way: Way) -> Person {
    let name = unique("user-");
    let token = world.issuer.good(&name);
    Person { name, way, token, history: Mutex::new(vec![(Instant::now(), Standing::Clean)]) }
}

fn ask(person: &Person, gateway: &Gateway, tally: &Tally) {
    let asked = Instant::now();
    let before = person.settled(asked);
    let verdict = verdict(gateway, &person.token);
    let counted = match verdict.as_str() {
        "200" => &tally.passed,
        "403 user_banned" => &tally.refused,
        "503 ledger_unavailable" => &tally.unavailable,
        other => panic!("{other}"),
    };
    counted.fetch_add(1, Ordering::Relaxed);
    // It must not have changed while the request was under way.
    let standing = person.settled(asked).filter(|standing| Some(*standing) == before);
    let wrong = match standing {
        Some(Standing::Banned) => verdict == "200",
        Some(Standing::Clean) => verdict == "403 user_banned",
        Some(Standing::Changing) | None => false,
    };
    if wrong {
        let (since, _) = *person.history.lock().unwrap().last().unwrap();
        let (_, ready) = gateway.ready();
        let late = asked - since;
        tally
            .faults
            .lock()
            .unwrap()
            .push(format!("{:?} {standing:?} for {late:?}, and yet {verdict}; now {ready}", person.way));
    }
}

fn change(person: &Person, gateway: &Gateway, database: &Database<'_>, port: u16, dice: &mut Dice) {
    let (status, standing) =
        if dice.below(2) == 0 { ("banned", Standing::Banned) } else { ("active", Standing::Clean) };
    let name = &person.name;
    let row = || {
        let sql = format!("UPDATE users SET status = '{status}' WHERE user_id = '{name}'");
        database.psql(&sql);
    };
    let entry = || {
        let key = format!("invalid_user:{name}");
        let _ = match standing {
            Standing::Banned => Redis::ask(port, &["SET", &key, status, "EX", "3600"]),
            _ => Redis::ask(port, &["DEL", &key]),
        };
    };
    person.note(Standing::Changing);
    match (person.way, dice.below(2)) {
        (Way::Told, _) => drop(gateway.set_status(name, status)),
        (Way::Typed, _) => row(),
        (Way::Service, 0) => {
            row();
            entry();
        }
        (Way::Service, _) => {
            entry();
            row();
        }
    }
    person.note(standing);
}

/// Does one thing to Redis after the other until the time is over, and leaves it running.
fn torment(redis: &mut Redis, mut dice: Dice, until: Instant) -> Vec<String> {
    let mut done = Vec::new();
    while Instant::now() < until {
        // Time enough for memory to be believed again, now and then.
        pause(Duration::from_millis(200 + 100 * dice.below(14) as u64));
        let what = match dice.below(9) {
            0 => {
                redis.cmd(&["FLUSHALL"]);
                "flushed"
            }
            6 => {
                // To nothing, or back to what it was before the last time.
                redis.cmd(&["SWAPDB", "0", "1"]);
                "swapped"
            }
            7 => {
                redis.cmd(&["SAVE"]);
                pause(Duration::from_millis(300));
                // An older copy in the same process.
                redis.cmd(&["DEBUG", "RELOAD", "NOSAVE"]);
                "reloaded"
            }
            8 => {
                if let Reply::List(keys) = redis.cmd(&["KEYS", "invalid_user:*"])
                    && !keys.is_empty()
                    && let Reply::Text(key) = &keys[dice.below(keys.len())]
                {
                    redis.cmd(&["DEL", key]);
                }
                "deleted by hand"
            }
            1 => {
                let stopped = redis.stop_cont();
                pause(Duration::from_millis(100 + 100 * dice.below(12) as u64));
                drop(stopped);
                "paused"
            }
            2 => {
                redis.cmd(&["FLUSHALL"]);
                redis.cmd(&["SAVE"]);
                redis.restart();
                "restarted empty"
            }
            3 => {
                redis.cmd(&["SAVE"]);
                // What is changed meanwhile is lost with the process.
                pause(Duration::from_millis(300));
                redis.restart_from_copy();
                "restarted from an old snapshot"
            }
            4 => {
                redis.kill();
                pause(Duration::from_millis(100 + 100 * dice.below(12) as u64));
                redis.restart();
                "killed"
            }
            _ => {
                redis.cmd(&["CLIENT", "KILL", "TYPE", "normal"]);
                redis.cmd(&["CLIENT", "KILL", "TYPE", "pubsub"]);
                "disconnected"
            }
        };
        done.push(what.to_owned());
    }
    done
}

/// The same to a cluster. Every primary has a replica, and takes back its place in time.
fn torment_all(cluster: &mut Cluster, mut dice: Dice, until: Instant) -> Vec<String> {
    let mut done = Vec::new();
    while Instant::now() < until {
        pause(Duration::from_millis(200 + 100 * dice.below(14) as u64));
        let pair = dice.below(3);
        let (primary, replica) = if cluster.is_primary(pair) { (pair, pair + 3) } else { (pair + 3, pair) };
        let what = match dice.below(6) {
            0 => {
                cluster.fail_over(replica);
                cluster.follows(primary);
                "failed over"
            }
            1 => {
                cluster.nodes[primary].kill();
                cluster.is_promoted(replica);
                cluster.nodes[primary].restart();
                cluster.is_well();
                cluster.follows(primary);
                "killed"
            }
            2 => {
                let stopped = cluster.nodes[primary].stop_cont();
                pause(Duration::from_millis(100 + 100 * dice.below(5) as u64));
                drop(stopped);
                "paused"
            }
            3 => {
                cluster.nodes[primary].cmd(&["FLUSHALL"]);
                "flushed"
            }
            4 => {
                let other = (pair + 1) % 3;
                let to = if cluster.is_primary(other) { other } else { other + 3 };
                let slots = cluster.slots_of(primary);
                for slot in slots.iter().take(5).map(u16::to_string) {
                    cluster.begin_move(&slot, primary, to);
                    cluster.move_keys(&slot, primary, to, || ());
                    cluster.end_move(&slot, primary, to, || ());
                }
                "resharded"
            }
            _ => {
                cluster.nodes[primary].cmd(&["CLIENT", "KILL", "TYPE", "pubsub"]);
                "disconnected"
            }
        };
        done.push(what.to_owned());
    }
    done
}
