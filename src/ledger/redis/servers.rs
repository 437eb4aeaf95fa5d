//! Where Redis is: one server, the primary that sentinels name, or the primaries of a cluster. Whoever connects asks here,
//! and asks again whether the server it is connected to is still the one.

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _,
    ProtocolVersion, RedisConnectionInfo, TlsCertificates, Value,
};

use super::cluster::Cluster;
use super::connection::{Connection, One};
use super::lease::Term;
use super::many::Many;
use super::of_error;
use super::sentinel::Sentinels;
use crate::ledger::settings::{HostPort, Login, RedisAddress, RedisServers, RedisSettings, RedisTls};
use crate::ledger::store::StoreError;

/// Where Redis is, and whether it is still there.
pub struct Servers(Kind);

enum Kind {
    Single(ConnectionInfo),
    Sentinel(Sentinels),
    Cluster(Cluster),
}

/// The server to connect to. Named by others, for as long as they vouch for it.
#[derive(Clone)]
pub struct Primary {
    info: ConnectionInfo,
    term: Option<Term>,
}

impl Servers {
    /// Nothing is asked yet; what is wrong for good (a certificate that cannot be read) is an error.
    pub fn of(settings: &RedisSettings) -> Result<Self, StoreError> {
        let maker = Maker::of(settings)?;
        Ok(Self(match &settings.servers {
            RedisServers::Single(RedisAddress::Tcp(address)) => Kind::Single(maker.info(address)?),
            RedisServers::Single(RedisAddress::Unix(path)) => {
                Kind::Single(maker.of_address(ConnectionAddr::Unix(path.clone()))?)
            }
            RedisServers::Sentinel { sentinels, service, login } => {
                Kind::Sentinel(Sentinels::new(sentinels, service, login, maker)?)
            }
            RedisServers::Cluster { seeds } => Kind::Cluster(Cluster::new(seeds, maker)),
        }))
    }

    /// The primary at this moment. A cluster has several, and so none.
    pub fn primary(&self) -> Result<Primary, StoreError> {
        match &self.0 {
            Kind::Single(info) => Ok(Primary { info: info.clone(), term: None }),
            Kind::Sentinel(sentinels) => {
                let (info, term) = sentinels.primary()?;
                Ok(Primary { info, term: Some(term) })
            }
            Kind::Cluster(_) => Err(StoreError::unavailable("a cluster has several primaries")),
        }
    }

    /// Whether there is somebody to connect to at this moment.
    pub(super) fn are_known(&self) -> bool {
        match &self.0 {
            Kind::Cluster(cluster) => cluster.topology().is_ok(),
            Kind::Single(_) | Kind::Sentinel(_) => self.primary().is_ok(),
        }
    }

    /// To all there are.
    pub async fn connect(
        &self,
        protocol: ProtocolVersion,
        config: &AsyncConnectionConfig,
    ) -> Result<Connection, StoreError> {
        Ok(match &self.0 {
            Kind::Cluster(cluster) => Connection::Many(Many::open(cluster, protocol, config).await?),
            Kind::Single(_) | Kind::Sentinel(_) => {
                Connection::One(Box::new(One::open(self.primary()?, protocol, config).await?))
            }
        })
    }

    /// Asks sentinels and nodes again and again. Without this running nobody vouches for anything. Never returns.
    pub async fn watch(&self) {
        match &self.0 {
            Kind::Single(_) => std::future::pending().await,
            Kind::Sentinel(sentinels) => sentinels.watch().await,
            Kind::Cluster(cluster) => cluster.watch().await,
        }
    }

    /// Until there is something new to learn from [`Servers::primary`], from this call on.
    pub fn turns(&self) -> impl Future<Output = ()> {
        let turns = match &self.0 {
            Kind::Single(_) => None,
            Kind::Sentinel(sentinels) => Some(sentinels.turns()),
            Kind::Cluster(cluster) => Some(cluster.turns()),
        };
        async {
            match turns {
                Some(turns) => turns.await,
                None => std::future::pending().await,
            }
        }
    }
}

impl Primary {
    pub(super) fn of_cluster(info: ConnectionInfo, term: Term) -> Self {
        Self { info, term: Some(term) }
    }

    /// Whether it is the primary still, as far as anybody can know. To be asked after each answer of its: one that was
    /// deposed meanwhile goes on answering for many seconds as if nothing had happened.
    pub fn stands(&self) -> bool {
        self.term.as_ref().is_none_or(Term::holds)
    }

    /// Until it is not the primary any more, or nobody says so.
    pub async fn deposed(&self) {
        match &self.term {
            None => std::future::pending().await,
            Some(term) => term.ended().await,
        }
    }

    /// A new connection. One that was named by others must call itself primary, too: their word may be older than the change.
    pub async fn connect(
        &self,
        protocol: ProtocolVersion,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, StoreError> {
        let settings = self.info.redis_settings().clone().set_protocol(protocol);
        let client = redis::Client::open(self.info.clone().set_redis_settings(settings));
        let client = client.map_err(|error| of_error(&error))?;
        let connection = client.get_multiplexed_async_connection_with_config(config).await;
        let mut connection = connection.map_err(|error| of_error(&error))?;
        if self.term.is_some() && !is_primary(&mut connection).await? {
            return Err(StoreError::unavailable("what is named as the primary is a replica"));
        }
        match self.stands() {
            true => Ok(connection),
            false => Err(StoreError::unavailable("another primary was named meanwhile")),
        }
    }
}

async fn is_primary(connection: &mut MultiplexedConnection) -> Result<bool, StoreError> {
    let role: Value = redis::cmd("ROLE").query_async(connection).await.map_err(|error| of_error(&error))?;
    let word = match &role {
        Value::Array(parts) => parts.first(),
        _ => None,
    };
    Ok(match word {
        Some(Value::BulkString(word)) => word == b"master",
        Some(Value::SimpleString(word)) => word == "master",
        _ => return Err(StoreError::malformed("a role")),
    })
}

/// Makes what is needed to connect to any of the servers: they differ in their address only.
#[derive(Clone)]
pub(super) struct Maker {
    /// With an address that means nothing: redis-rs gives read certificates out only inside of one.
    tls: Option<ConnectionAddr>,
    login: Login,
    database: i64,
}

impl Maker {
    fn of(settings: &RedisSettings) -> Result<Self, StoreError> {
        let tls = settings.tls.as_ref().map(certificates).transpose()?;
        Ok(Self { tls, login: settings.login.clone(), database: settings.database })
    }

    /// The same for the sentinels themselves: they have users of their own, and no databases.
    pub fn for_sentinels(&self, login: &Login) -> Self {
        Self { login: login.clone(), database: 0, ..self.clone() }
    }

    pub fn info(&self, address: &HostPort) -> Result<ConnectionInfo, StoreError> {
        let HostPort { host, port } = address.clone();
        self.of_address(match &self.tls {
            Some(ConnectionAddr::TcpTls { tls_params, .. }) => {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        })
    }

    fn of_address(&self, address: ConnectionAddr) -> Result<ConnectionInfo, StoreError> {
        // No `CLIENT SETINFO`: servers before 7.2 have no such command, and no way to allow it.
        let mut redis = RedisConnectionInfo::default().set_db(self.database).set_skip_set_lib_name();
        if let Some(user) = &self.login.user {
            redis = redis.set_username(user);
        }
        if let Some(password) = &self.login.password {
            redis = redis.set_password(password);
        }
        let info = address.into_connection_info().map_err(|error| of_error(&error))?;
        // Off by default in redis-rs: over a network Nagle's algorithm would hold back small questions.
        let tcp = TcpSettings::default().set_nodelay(true);
        Ok(info.set_tcp_settings(tcp).set_redis_settings(redis))
    }
}

/// Read once.
fn certificates(tls: &RedisTls) -> Result<ConnectionAddr, StoreError> {
    let client = tls.client.as_ref();
    let certificates = TlsCertificates {
        client_tls: client
            .map(|it| ClientTlsConfig { client_cert: it.chain.clone(), client_key: it.key.clone() }),
        root_cert: tls.ca.clone(),
    };
    let unreadable = |_| StoreError::unavailable("its certificates cannot be read");
    let client = redis::Client::build_with_tls("rediss://localhost", certificates).map_err(unreadable)?;
    Ok(client.get_connection_info().addr().clone())
}
