use std::pin::Pin;
use std::task::{Context, Wake, Waker};

use http::Method;

use super::*;
use crate::proxy::arrival::Arrival;

/// Counts how often it was woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn streams() -> (Registry, Arc<Streams>) {
    let registry = Registry::new();
    let streams = Streams::register(&registry).expect("registered");
    (registry, streams)
}

fn open(streams: &Streams, kind: Kind) -> (Watch, Arc<Bell>) {
    let bell = Arc::<Bell>::default();
    let place = (&Method::GET, "a.test", "/x");
    let (arrival, waker) = (Arrival::nowhere(), Waker::from(Arc::clone(&bell)));
    let served = &mut arrival.unless_cut(Box::pin(std::future::pending::<Option<()>>()));
    assert!(Pin::new(served).poll(&mut Context::from_waker(&waker)).is_pending());
    let visit = Arc::new(Visit::new(place, kind, false, &arrival, Instant::now()));
    let entry = Entry {
        visit,
        credential: None,
        snapshot: 1,
        heard: Default::default(),
        concern: None,
        asked: Instant::now(),
        observed: false,
        doomed: false,
    };
    (streams.open(entry).expect("a shard"), bell)
}

fn members(streams: &Streams) -> Vec<Member> {
    let mut all = Vec::new();
    streams.for_each(|spot, entry| all.push(spot.member(entry)));
    all
}

#[test]
fn what_has_left_is_not_cut_and_whoever_comes_into_its_place_is_somebody_else() {
    let (_registry, streams) = streams();
    let (watch, bell) = open(&streams, Kind::WebSocket);
    let before = members(&streams);
    assert_eq!((watch.visit().host(), watch.visit().path()), ("a.test", "/x"));
    drop(watch);
    assert_eq!(members(&streams).len(), 0);
    // The threads' shards come in turn: sooner or later somebody has the same place.
    let others: Vec<_> = (0..SHARDS).map(|_| open(&streams, Kind::WebSocket)).collect();
    streams.deny(&before, None, &DenyReason::NoRoute, false);
    assert_eq!(bell.0.load(Ordering::SeqCst), 0);
    assert!(others.iter().all(|(watch, _)| watch.visit().fate().is_none()));
}

#[test]
fn conversations_are_cut_at_once_and_requests_when_they_have_had_time() {
    let (registry, streams) = streams();
    let [(socket, rung), (request, later), (logout, never)] =
        [Kind::WebSocket, Kind::Plain, Kind::Plain].map(|kind| open(&streams, kind));
    logout.visit().spare();
    streams.deny(&members(&streams), None, &DenyReason::NoRoute, false);
    let woken = || [&rung, &later, &never].map(|bell| bell.0.load(Ordering::SeqCst));
    assert_eq!(woken(), [1, 0, 0]);
    // Again: nothing that is doomed already is doomed twice.
    streams.deny(&members(&streams), None, &DenyReason::TokenMissing, false);
    streams.execute(Instant::now());
    assert_eq!(woken(), [1, 0, 0]);
    streams.execute(Instant::now() + LONGEST_FOR_REQUESTS);
    assert_eq!(woken(), [1, 1, 0]);
    let words = [&socket, &request, &logout].map(|watch| watch.visit().fate().map(Fate::word));
    assert_eq!(words, [Some("no_route"), Some("no_route"), None]);
    let closed = registry.gather().into_iter().find(|it| it.name() == "portcullis_streams_closed_total");
    let counts =
        closed.expect("the family").get_metric().iter().map(|it| it.get_counter().get_value()).sum::<f64>();
    assert_eq!(counts, 2.0);
    drop(request);
    assert!(streams.doomed.lock().next().is_some(), "the logout");
    drop((socket, logout));
    streams.execute(Instant::now() + Duration::from_secs(60));
    assert!(streams.doomed.lock().next().is_none());
}

/// Within a second of the change, with all that comes before.
const LONGEST_FOR_REQUESTS: Duration = Duration::from_millis(750);

#[tokio::test]
async fn who_is_dismissed_is_waited_for() {
    let (_registry, streams) = streams();
    let (watch, bell) = open(&streams, Kind::Plain);
    let dismissing = tokio::spawn({
        let streams = Arc::clone(&streams);
        async move { streams.dismiss().await }
    });
    while bell.0.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!dismissing.is_finished());
    assert_eq!(
        watch.visit().fate().map(|fate| (fate.close_code(), fate.word().to_owned())),
        Some((1001, "going_away".to_owned()))
    );
    drop(watch);
    dismissing.await.expect("no panic");
}

#[test]
fn kinds_are_known_by_what_a_request_asks_for() {
    let kind = |fields: &[(&'static str, &'static str)]| {
        let mut headers = http::HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        Kind::of(&headers, false)
    };
    assert_eq!(kind(&[]), Kind::Plain);
    assert_eq!(kind(&[("accept", "text/html, Text/Event-Stream;q=0.5")]), Kind::Events);
    assert_eq!(kind(&[("content-type", "application/grpc+proto")]), Kind::Grpc);
    assert_eq!(Kind::of(&http::HeaderMap::new(), true), Kind::WebSocket);
    assert!(Kind::is_events(b"text/event-stream; charset=utf-8") && !Kind::is_events(b"text/plain"));
    for kind in Kind::ALL {
        let visit = Visit::new((&Method::GET, "", "/"), kind, false, &Arrival::nowhere(), Instant::now());
        assert_eq!(visit.kind(), kind);
    }
}
