//! Triggers on services' tables of users: every change of a column that decides about a user is noted in
//! `portcullis_changes`, in the transaction that makes it.
//!
//! They must never be the reason why a service's own statement fails: what goes wrong inside is swallowed on PostgreSQL
//! (a warning) and MySQL. On PostgreSQL the function runs with the rights of whoever installed it, so that services
//! need none on our table, and with a fixed search path, so that nobody can put another table in its place.

use sha2::{Digest as _, Sha256};

use crate::ledger::preset::{Preset, PresetContext, Watched};
use crate::ledger::schema::{Column, number, text};
use crate::ledger::sql::{Dialect, SqlStore};
use crate::ledger::store::StoreError;

/// Every trigger's name begins so.
const PREFIX: &str = "portcullis_watch";

/// What is to be watched, each table and id once.
pub fn watched<'a>(presets: &'a [Preset], context: &'a PresetContext) -> Vec<Watched<'a>> {
    let mut all: Vec<Watched<'a>> = Vec::new();
    for watched in presets.iter().filter_map(Preset::users).filter_map(|layout| layout.watched(context)) {
        match all
            .iter_mut()
            .find(|other| other.table.name() == watched.table.name() && other.id == watched.id)
        {
            // Two layouts over one table: one trigger, over the columns of both.
            Some(other) => {
                let more = watched.columns.into_iter().filter(|column| !other.columns.contains(column));
                let more: Vec<_> = more.collect();
                other.columns.extend(more);
            }
            None => all.push(watched),
        }
    }
    all
}

/// Installs what is missing and replaces what is there. Safe to run again, and while services run.
pub async fn install(sql: &SqlStore, watched: &Watched<'_>) -> Result<(), StoreError> {
    match sql.dialect() {
        // Sent as one text they stand or fall together.
        Dialect::Postgres => sql.define(&postgres(watched, &schema(sql).await?)).await,
        Dialect::Sqlite => {
            let mut open = sql.begin().await?;
            for statement in sqlite(watched) {
                open.execute(&statement, &[]).await?;
            }
            open.commit().await
        }
        Dialect::MySql => {
            for statement in mysql(watched, &schema(sql).await?) {
                sql.define(&statement).await?;
            }
            Ok(())
        }
    }
}

/// Takes them away again. What they have noted stays until it is pruned.
pub async fn remove(sql: &SqlStore, watched: &Watched<'_>) -> Result<(), StoreError> {
    for event in EVENTS {
        sql.define(&drop_trigger(watched, event)).await?;
    }
    if sql.dialect() == Dialect::Postgres {
        sql.define(&drop_trigger(watched, "truncate")).await?;
    }
    Ok(())
}

/// Whether the database has all triggers of this table, awake.
pub async fn installed(sql: &SqlStore, watched: &Watched<'_>) -> Result<bool, StoreError> {
    // Names of our own making: letters, digits and underscores.
    let names = EVENTS.map(|event| format!("'{}'", name(watched, event))).join(", ");
    let (statement, values) = match sql.dialect() {
        Dialect::Sqlite => {
            ("SELECT COUNT(*) AS n FROM sqlite_master WHERE type = 'trigger' AND name", vec![])
        }
        // A disabled trigger (`D`) tells nothing, and neither does one that fires for replication alone (`R`).
        Dialect::Postgres => (
            "SELECT COUNT(*) AS n FROM pg_trigger WHERE tgrelid = to_regclass(?) AND tgenabled IN ('O', 'A') \
             AND tgname",
            vec![watched.table.name().into()],
        ),
        Dialect::MySql => {
            ("SELECT COUNT(*) AS n FROM information_schema.triggers WHERE trigger_name", vec![])
        }
    };
    let rows = sql.rows(&format!("{statement} IN ({names})"), &values).await?;
    Ok(rows.first().and_then(|row| number(row, 0)).is_some_and(|found| found >= 3))
}

const EVENTS: [&str; 3] = ["insert", "update", "delete"];

/// One per table, id and event, whatever characters the table's name has, and within every database's 63 or 64.
fn name(watched: &Watched<'_>, event: &str) -> String {
    let plain = |char: char| if char.is_ascii_alphanumeric() { char.to_ascii_lowercase() } else { '_' };
    let table: String = watched.table.name().chars().map(plain).collect();
    let table: String = table.trim_matches('_').chars().take(28).collect();
    let digest = Sha256::digest(format!("{}\0{}", watched.table.name(), watched.id.bare()));
    let digest: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}_{table}_{digest}_{event}")
}

fn drop_trigger(watched: &Watched<'_>, event: &str) -> String {
    let (name, table) = (name(watched, event), watched.table);
    match table.dialect() {
        Dialect::Postgres => format!("DROP TRIGGER IF EXISTS {name} ON {}", table.name()),
        // A trigger lives in its table's schema.
        Dialect::Sqlite | Dialect::MySql => match table.schema() {
            Some(schema) => format!("DROP TRIGGER IF EXISTS {schema}.{name}"),
            None => format!("DROP TRIGGER IF EXISTS {name}"),
        },
    }
}

/// The schema our own tables are in, quoted.
async fn schema(sql: &SqlStore) -> Result<String, StoreError> {
    let statement = match sql.dialect() {
        Dialect::MySql => "SELECT CONCAT('`', REPLACE(DATABASE(), '`', '``'), '`') AS own",
        Dialect::Sqlite | Dialect::Postgres => {
            "SELECT quote_ident(n.nspname) AS own FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.oid = to_regclass('portcullis_changes')"
        }
    };
    let rows = sql.rows(statement, &[]).await?;
    rows.first()
        .and_then(|row| text(row, 0))
        .ok_or_else(|| StoreError::unavailable("there is no table portcullis_changes: migrate first"))
}

/// `WHEN` keeps updates of other columns from costing anything. The cast makes types comparable that have no equality.
fn postgres(watched: &Watched<'_>, schema: &str) -> String {
    let (table, id) = (watched.table.name(), watched.id.bare().replace('\'', "''"));
    let differs = |column: &&Column| {
        let name = &column.name;
        format!("CAST(OLD.{name} AS text) IS DISTINCT FROM CAST(NEW.{name} AS text)")
    };
    let changed = watched.all().iter().map(differs).collect::<Vec<_>>().join(" OR ");
    let function = format!(
        "CREATE OR REPLACE FUNCTION {schema}.{PREFIX}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
         SET search_path = pg_catalog, pg_temp AS $portcullis$
DECLARE
  was text;
  becomes text;
  now_ms bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
BEGIN
  BEGIN
    IF TG_OP = 'TRUNCATE' THEN
      INSERT INTO {schema}.portcullis_changes (source, subject, at) VALUES (TG_TABLE_NAME, NULL, now_ms);
      RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
      EXECUTE format('SELECT CAST(($1).%I AS text)', TG_ARGV[0]) USING OLD INTO was;
    END IF;
    IF TG_OP <> 'DELETE' THEN
      EXECUTE format('SELECT CAST(($1).%I AS text)', TG_ARGV[0]) USING NEW INTO becomes;
    END IF;
    INSERT INTO {schema}.portcullis_changes (source, subject, at)
      SELECT DISTINCT TG_TABLE_NAME, id, now_ms FROM unnest(ARRAY[was, becomes]) AS id WHERE id IS NOT NULL;
  EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'portcullis: a change of % was not noted: %', TG_TABLE_NAME, SQLERRM;
  END;
  RETURN NULL;
END
$portcullis$"
    );
    let trigger = |event: &str, when: &str, each: &str| {
        format!(
            "CREATE TRIGGER {} AFTER {event} ON {table} FOR EACH {each} {when} EXECUTE PROCEDURE {schema}.{PREFIX}('{id}')",
            name(watched, &event.to_ascii_lowercase()),
        )
    };
    let mut statements = vec![function, format!("REVOKE ALL ON FUNCTION {schema}.{PREFIX}() FROM PUBLIC")];
    statements.extend(EVENTS.map(|event| drop_trigger(watched, event)));
    statements.push(drop_trigger(watched, "truncate"));
    statements.push(trigger("INSERT", "", "ROW"));
    statements.push(trigger("UPDATE", &format!("WHEN ({changed})"), "ROW"));
    statements.push(trigger("DELETE", "", "ROW"));
    statements.push(trigger("TRUNCATE", "", "STATEMENT"));
    statements.join(";\n")
}

/// There is nothing to catch an error with; the one that can be foreseen, a table that is gone, is told in the
/// documentation. `OR IGNORE` passes over the others.
fn sqlite(watched: &Watched<'_>) -> Vec<String> {
    let at = "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)";
    let source = watched.table.name().replace('\'', "''");
    let note = |row: &str, when: &str| {
        let id = watched.id.spelled(row);
        format!(
            "INSERT OR IGNORE INTO portcullis_changes (source, subject, at) SELECT '{source}', {id}, {at} {when};"
        )
    };
    let differs = |column: &&Column| format!("OLD.{0} IS NOT NEW.{0}", column.name);
    let changed = watched.all().iter().map(differs).collect::<Vec<_>>().join(" OR ");
    let trigger = |event: &str, when: &str, body: &str| {
        let name = name(watched, event);
        format!("CREATE TRIGGER {name} AFTER {event} ON {} {when} BEGIN {body} END", watched.table.name())
    };
    // A row whose id changes is two users' change.
    let both = format!("{} {}", note("NEW", ""), note("OLD", &format!("WHERE {}", differs(&watched.id))));
    let mut statements: Vec<String> = EVENTS.map(|event| drop_trigger(watched, event)).into();
    statements.push(trigger("insert", "", &note("NEW", "")));
    statements.push(trigger("update", &format!("WHEN {changed}"), &both));
    statements.push(trigger("delete", "", &note("OLD", "")));
    statements
}

fn mysql(watched: &Watched<'_>, schema: &str) -> Vec<String> {
    let at = "CAST(FLOOR(UNIX_TIMESTAMP(NOW(3)) * 1000) AS SIGNED)";
    let source = watched.table.name().replace(['\'', '\\'], "");
    let note = |row: &str| {
        let id = watched.id.spelled(row);
        format!(
            "INSERT INTO {schema}.portcullis_changes (source, subject, at) VALUES ('{source}', {id}, {at});"
        )
    };
    let same = |column: &&Column| format!("OLD.{0} <=> NEW.{0}", column.name);
    let same_all = watched.all().iter().map(same).collect::<Vec<_>>().join(" AND ");
    let same_id = same(&watched.id);
    let trigger = |event: &str, body: &str| {
        format!(
            "CREATE TRIGGER {} AFTER {event} ON {} FOR EACH ROW BEGIN \
             DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; {body} END",
            name(watched, event),
            watched.table.name(),
        )
    };
    let update = format!(
        "IF NOT ({same_all}) THEN {} IF NOT ({same_id}) THEN {} END IF; END IF;",
        note("NEW"),
        note("OLD")
    );
    EVENTS
        .into_iter()
        .zip([note("NEW"), update, note("OLD")])
        .flat_map(|(event, body)| [drop_trigger(watched, event), trigger(event, &body)])
        .collect()
}
