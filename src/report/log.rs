//! The log of the process itself: JSON or text on the standard output, `RUST_LOG` before `[log] level`.

use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{Directive, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::Metrics;
use super::settings::{Format, LogSettings};

/// What libraries may say at most, whatever `RUST_LOG` asks for: beyond this they print requests, statements and
/// keys as they are, and with them tokens. The first match holds.
///
/// Pingora describes every failed request with its query, at ERROR; our own access line says it without. What `h2` and
/// `rustls` warn of is what clients do to them: whoever is out there could fill the log with it.
const CAPS: [(&str, LevelFilter); 13] = [
    ("pingora_proxy", LevelFilter::OFF),
    ("pingora_core::apps", LevelFilter::OFF),
    ("pingora_core::protocols", LevelFilter::OFF),
    ("pingora_http", LevelFilter::OFF),
    ("pingora", LevelFilter::WARN),
    ("h2", LevelFilter::ERROR),
    ("hyper", LevelFilter::WARN),
    ("reqwest", LevelFilter::WARN),
    ("rustls", LevelFilter::ERROR),
    ("axum", LevelFilter::WARN),
    ("sqlx::query", LevelFilter::OFF),
    ("sqlx", LevelFilter::WARN),
    ("redis", LevelFilter::WARN),
];

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{whence} holds directives that cannot be read: {cause}")]
    Directives { whence: &'static str, cause: tracing_subscriber::filter::ParseError },
    #[error("a log is already set up in this process")]
    Taken,
}

/// Sets up the log of this process. Called once, before anything is worth a line.
pub fn start(settings: &LogSettings) -> Result<(), LogError> {
    let filter = match environment() {
        Some(directives) => parse("RUST_LOG", &directives)?,
        None => parse("`[log] level`", &settings.level)?,
    };
    let (filter, handle) = reload::Layer::new(filter);
    let capped = filter_fn(|line| *line.level() <= cap(line.target()));
    let registry = tracing_subscriber::registry().with(filter).with(capped);
    let lines = tracing_subscriber::fmt::layer();
    match settings.format {
        Format::Json => registry.with(lines.json().flatten_event(true).with_current_span(false)).try_init(),
        Format::Text => registry.with(lines.with_ansi(std::io::stdout().is_terminal())).try_init(),
    }
    .map_err(|_| LogError::Taken)?;
    // Whoever set up the log is the first to come here.
    let _ = LEVEL.set(handle);
    Ok(())
}

/// Puts another `[log] level` in force. `RUST_LOG` still wins.
pub fn set_level(level: &str) {
    let Some(handle) = LEVEL.get() else { return };
    if environment().is_some() {
        tracing::warn!("`log.level` has changed and does nothing: the environment's RUST_LOG wins");
        return;
    }
    let changed = parse("`[log] level`", level).map(|filter| handle.reload(filter));
    // The configuration has read it already, and the log lives as long as the process.
    if !matches!(changed, Ok(Ok(()))) {
        tracing::warn!(level, "The level of the log stays as it was");
    }
}

static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

fn environment() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty())
}

/// The audit trail is no matter of taste: whoever wants it out of the log gives it a file.
fn parse(whence: &'static str, directives: &str) -> Result<EnvFilter, LogError> {
    let filter =
        EnvFilter::builder().parse(directives).map_err(|cause| LogError::Directives { whence, cause })?;
    Ok(filter.add_directive(Directive::from_str("audit=info").unwrap_or_else(|_| LevelFilter::INFO.into())))
}

/// The most that a target may say.
fn cap(target: &str) -> LevelFilter {
    CAPS.iter().find(|(start, _)| target.starts_with(start)).map_or(LevelFilter::TRACE, |(_, most)| *most)
}

/// Counts panics and logs where they happened, never their message: it may quote what a client sent.
pub fn watch_panics(metrics: &Metrics) {
    let panics = metrics.panics().clone();
    std::panic::set_hook(Box::new(move |panic| {
        panics.inc();
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(
            place,
            thread,
            "panic: this is a bug; its connection or task is lost, the process goes on"
        );
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_print_requests_are_kept_quiet() {
        assert_eq!(cap("pingora_proxy"), LevelFilter::OFF);
        assert_eq!(cap("pingora_core::protocols::http::v1::server"), LevelFilter::OFF);
        assert_eq!(cap("pingora_core::server"), LevelFilter::WARN);
        assert_eq!(cap("hyper_util::client"), LevelFilter::WARN);
        assert_eq!(cap("portcullis::proxy"), LevelFilter::TRACE);
    }

    #[test]
    fn audit_lines_are_told_at_every_level() {
        for directives in ["error", "off", "audit=off", "warn,portcullis=debug"] {
            let subscriber = tracing_subscriber::registry().with(parse("t", directives).expect("directives"));
            tracing::subscriber::with_default(subscriber, || {
                assert!(tracing::enabled!(target: "audit", tracing::Level::INFO), "{directives}");
                assert!(!tracing::enabled!(target: "other", tracing::Level::INFO), "{directives}");
            });
        }
    }

    #[test]
    fn a_level_or_directives_are_read_and_nonsense_is_not() {
        assert!(parse("t", "info").is_ok() && parse("t", "warn,portcullis=debug").is_ok());
        assert!(parse("t", "portcullis=loud").is_err());
    }
}
