//! `[redis]`: one server, the sentinels that know it, or a cluster; who we are to it, and by whom it is certified.

use std::path::PathBuf;
use std::time::Duration;

use redis::IntoConnectionInfo as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::kinds::{MILLISECOND, SECOND, boolean, duration, file, name, parsed, secret_file, some};
use super::node::Node;
use super::reader::{Placed, Reader, Table};
use crate::ledger::settings::{
    ClientCertificate, HostPort, Login, RedisAddress, RedisServers, RedisSettings, RedisTls,
};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

pub fn redis(table: &mut Table<'_>) -> Option<RedisSettings> {
    let cluster = table.or("cluster", boolean, false).unwrap_or_default();
    let written = where_it_is(table, cluster);
    let sentinel_login = sentinel_login(table, written.as_ref());
    let tls = tls(table, written.as_ref());
    let timeout: Option<Duration> = table.or("timeout", duration(MILLISECOND..=10 * SECOND), "50ms");
    let Written { place, login, database, .. } = written?;
    let servers = match place {
        Place::Single(address) => RedisServers::Single(address),
        Place::Sentinel { sentinels, service } => {
            RedisServers::Sentinel { sentinels, service, login: sentinel_login? }
        }
        Place::Cluster(seeds) => RedisServers::Cluster { seeds },
    };
    Some(RedisSettings { servers, login, database, tls: tls?, timeout: timeout? })
}

/// What a URL says.
#[derive(Clone, PartialEq)]
struct Written {
    place: Place,
    login: Login,
    database: i64,
    encrypted: bool,
}

#[derive(Clone, PartialEq)]
enum Place {
    Single(RedisAddress),
    Sentinel { sentinels: Vec<HostPort>, service: String },
    Cluster(Vec<HostPort>),
}

/// `url`, or `urls` of a cluster.
fn where_it_is(table: &mut Table<'_>, cluster: bool) -> Option<Written> {
    let (at, urls) = (table.place("urls"), table.maybe("urls", some(parsed(url))));
    match (table.has("url"), table.has("urls"), cluster) {
        (true, true, _) => {
            table.reader.problem(&at, "`url` and `urls` are both given; one is enough");
            table.maybe("url", parsed(url));
            None
        }
        (false, true, false) => {
            table.reader.problem(&at, "several `urls` are those of a cluster: say `cluster = true`");
            table.exists("url");
            None
        }
        (false, true, true) => {
            table.exists("url");
            cluster_of(urls?).map_err(|message| table.reader.problem(&at, message)).ok()
        }
        (_, false, true) => {
            let at = table.place("url");
            let url = table.need("url", parsed(url))?;
            cluster_of(vec![url]).map_err(|message| table.reader.problem(&at, message)).ok()
        }
        (_, false, false) => table.need("url", parsed(url)),
    }
}

/// The seeds of one cluster, which differ in nothing but their address.
fn cluster_of(urls: Vec<Written>) -> Result<Written, &'static str> {
    let mut seeds = Vec::new();
    let mut common = None;
    for Written { place, login, database, encrypted } in urls {
        let Place::Single(RedisAddress::Tcp(address)) = place else {
            return Err("the nodes of a cluster are named by `redis://` or `rediss://`");
        };
        if database != 0 {
            return Err("a cluster has the database 0 only");
        }
        seeds.push(address);
        if *common.get_or_insert_with(|| (login.clone(), encrypted)) != (login, encrypted) {
            return Err("the nodes of a cluster have one user, one password and one scheme");
        }
    }
    let (login, encrypted) = common.ok_or("this list must not be empty")?;
    Ok(Written { place: Place::Cluster(seeds), login, database: 0, encrypted })
}

fn sentinel_login(table: &mut Table<'_>, written: Option<&Written>) -> Option<Login> {
    let user = table.maybe("sentinel_username", name);
    let password = table.secret_or_file("sentinel_password", "sentinel_password_file");
    let keys = ["sentinel_username", "sentinel_password", "sentinel_password_file"];
    let sentinel = written.is_none_or(|it| matches!(it.place, Place::Sentinel { .. }));
    if !sentinel && let Some(key) = keys.into_iter().find(|key| table.has(key)) {
        table.reader.problem(&table.place(key), format!("`{key}` does nothing without sentinels"));
        return None;
    }
    let password = match password {
        None => None,
        Some(Placed { at, value }) => match String::from_utf8(value) {
            Ok(password) => Some(password),
            Err(_) => {
                table.reader.problem(&at, "this password is not UTF-8");
                return None;
            }
        },
    };
    if user.is_some() && password.is_none() {
        table.reader.problem(&table.place("sentinel_username"), "a user without `sentinel_password`");
        return None;
    }
    Some(Login { user: user.map(Into::into), password })
}

fn tls(table: &mut Table<'_>, written: Option<&Written>) -> Option<Option<RedisTls>> {
    let ca = table.maybe("ca", certificates);
    let chain = table.maybe("cert", certificates);
    let key = table.maybe("key", private_key);
    let encrypted = written?.encrypted;
    if !encrypted && let Some(key) = ["ca", "cert", "key"].into_iter().find(|key| table.has(key)) {
        table.reader.problem(&table.place(key), format!("`{key}` does nothing without `rediss`"));
        return None;
    }
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if table.has(one) && !table.has(other) {
            table.reader.problem(&table.place(one), format!("`{one}` needs its `{other}`"));
            return None;
        }
    }
    // A file that could not be used has been told of.
    if (table.has("ca"), table.has("cert"), table.has("key"))
        != (ca.is_some(), chain.is_some(), key.is_some())
    {
        return None;
    }
    let client = chain.zip(key).map(|(chain, key)| ClientCertificate { chain, key });
    Some(encrypted.then_some(RedisTls { ca, client }))
}

/// One certificate at least, in PEM.
fn certificates(reader: &Reader<'_>, node: &Node) -> Option<Vec<u8>> {
    let pem = file(reader, node)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    if read.is_ok_and(|certificates| !certificates.is_empty()) {
        return Some(pem);
    }
    reader.problem(&node.at, "this file holds no certificates in PEM");
    None
}

fn private_key(reader: &Reader<'_>, node: &Node) -> Option<Vec<u8>> {
    let pem = secret_file(reader, node)?;
    if PrivateKeyDer::from_pem_slice(&pem).is_ok() {
        return Some(pem);
    }
    reader.problem(&node.at, "this file holds no private key in PEM");
    None
}

const EXPECTED: &str = "expected a URL such as \"redis://127.0.0.1:6379/0\", \"rediss://…\", \
                        \"redis+sentinel://a:26379,b:26379/service\" or \"unix:///run/redis.sock\"";

fn url(text: &str) -> Result<Written, String> {
    let (scheme, rest) = text.split_once("://").ok_or(EXPECTED)?;
    match scheme {
        "redis" | "valkey" => single(rest, false),
        "rediss" | "valkeys" => single(rest, true),
        "redis+sentinel" => sentinel(rest, false),
        "rediss+sentinel" => sentinel(rest, true),
        "unix" | "redis+unix" => socket(rest),
        _ => Err(EXPECTED.into()),
    }
}

/// `user:password@host:port/database`
fn single(rest: &str, encrypted: bool) -> Result<Written, String> {
    let url = url::Url::parse(&format!("redis://{rest}")).map_err(|_| EXPECTED)?;
    let host = match url.host().ok_or(EXPECTED)? {
        url::Host::Domain(name) => name.to_owned(),
        url::Host::Ipv4(address) => address.to_string(),
        url::Host::Ipv6(address) => address.to_string(),
    };
    let database = database(url.path().trim_matches('/'))?;
    let place = Place::Single(RedisAddress::Tcp(HostPort { host, port: url.port().unwrap_or(PORT) }));
    let info = url.as_str().into_connection_info().map_err(|_| EXPECTED)?;
    Ok(Written { place, login: login_of(info.redis_settings()), database, encrypted })
}

/// `user:password@host:port,host:port/service/database`. User and password are Redis's own.
fn sentinel(rest: &str, encrypted: bool) -> Result<Written, String> {
    let (login, after) = rest.rsplit_once('@').unwrap_or(("", rest));
    let mut parts = after.split('/');
    let hosts = parts.next().unwrap_or_default();
    let service = parts.next().filter(|service| !service.is_empty());
    let service = service.ok_or("name the service that the sentinels watch, as in \"…:26379/mymaster\"")?;
    let database = database(parts.next().unwrap_or_default())?;
    if parts.next().is_some() || after.contains(['?', '#']) {
        return Err(EXPECTED.into());
    }
    let sentinels: Vec<_> = hosts.split(',').map(sentinel_address).collect::<Result<_, _>>()?;
    let place = Place::Sentinel { sentinels, service: service.to_owned() };
    // Decoded as for one server.
    let info = format!("redis://{login}@localhost").into_connection_info().map_err(|_| EXPECTED)?;
    Ok(Written { place, login: login_of(info.redis_settings()), database, encrypted })
}

fn sentinel_address(text: &str) -> Result<HostPort, String> {
    match single(text, false)? {
        Written { place: Place::Single(RedisAddress::Tcp(address)), .. } if !text.contains('/') => {
            let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            Ok(HostPort { port: if has_port { address.port } else { SENTINEL_PORT }, ..address })
        }
        _ => Err(EXPECTED.into()),
    }
}

/// `/path?db=1`, with `user` and `pass` as redis-rs has them.
fn socket(rest: &str) -> Result<Written, String> {
    let info = format!("redis+unix://{rest}").into_connection_info().map_err(|_| EXPECTED)?;
    let redis::ConnectionAddr::Unix(path) = info.addr() else { return Err(EXPECTED.into()) };
    let place = Place::Single(RedisAddress::Unix(PathBuf::from(path)));
    let database = info.redis_settings().db();
    Ok(Written { place, login: login_of(info.redis_settings()), database, encrypted: false })
}

fn database(text: &str) -> Result<i64, String> {
    if text.is_empty() { Ok(0) } else { text.parse::<u16>().map(i64::from).map_err(|_| EXPECTED.into()) }
}

fn login_of(settings: &redis::RedisConnectionInfo) -> Login {
    Login { user: settings.username().map(str::to_owned), password: settings.password().map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        url(text).unwrap_or_else(|message| panic!("{text}: {message}")).place
    }

    fn at(host: &str, port: u16) -> HostPort {
        HostPort { host: host.into(), port }
    }

    #[test]
    fn a_url_names_one_server_its_socket_or_the_sentinels_that_know_it() {
        assert!(place("redis://h") == Place::Single(RedisAddress::Tcp(at("h", 6379))));
        assert!(place("rediss://[::1]:7/3") == Place::Single(RedisAddress::Tcp(at("::1", 7))));
        assert!(place("unix:///run/r.sock?db=2") == Place::Single(RedisAddress::Unix("/run/r.sock".into())));
        let sentinels = vec![at("a", 26379), at("b", 5), at("::1", 26379)];
        assert!(
            place("redis+sentinel://a,b:5,[::1]/mine/4")
                == Place::Sentinel { sentinels, service: "mine".into() }
        );
        let databases = ["rediss://h/3", "redis+sentinel://a/mine/3", "unix:///run/r.sock?db=3"];
        assert!(databases.iter().all(|text| url(text).is_ok_and(|it| it.database == 3)));
        assert!(url("rediss+sentinel://a/mine").is_ok_and(|it| it.encrypted));
    }

    #[test]
    fn user_and_password_are_decoded_alike_everywhere() {
        for text in ["redis://u:p%40w@h", "redis+sentinel://u:p%40w@a,b/mine", "unix:///s?user=u&pass=p%40w"]
        {
            let login = url(text).unwrap_or_else(|message| panic!("{text}: {message}")).login;
            assert_eq!(
                (login.user.as_deref(), login.password.as_deref()),
                (Some("u"), Some("p@w")),
                "{text}"
            );
        }
        assert!(url("redis://:pw@h").is_ok_and(|it| it.login.user.is_none() && it.login.password.is_some()));
    }

    #[test]
    fn what_is_no_address_of_redis_is_refused_without_a_word_of_it() {
        for text in [
            "",
            "h:6379",
            "http://h",
            "redis://",
            "redis://h/x",
            "redis://h/70000",
            "redis+sentinel://a",
            "redis+sentinel://a/",
            "redis+sentinel:///mine",
            "redis+sentinel://a,,b/mine",
            "redis+sentinel://a/mine/x",
            "redis+sentinel://a/mine/0/1",
            "postgres://u:hunter2@h",
        ] {
            let Err(message) = url(text) else { panic!("{text} is no address of Redis") };
            assert!(!message.contains("hunter2"));
        }
    }
}
