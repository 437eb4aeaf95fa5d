//! What is read from tables: those of services, by stretches of their keys, and our own, page by page.

use super::*;

#[tokio::test]
async fn what_a_service_has_lifted_does_not_come_back_with_an_older_copy() {
    for layout in [
        keys(),
        InvalidUsersLayout::Set { key: "invalid".into() },
        InvalidUsersLayout::SortedSet { key: "invalid".into() },
    ] {
        let (redis, server) = (Redis::start().await, Server::sqlite());
        let users = "CREATE TABLE users (user_id INTEGER PRIMARY KEY, status TEXT NOT NULL)";
        server.sql.execute(users, &[]).await.expect("made");
        let rows = "INSERT INTO users VALUES (1, 'active'), (2, 'banned'), (3, 'active')";
        server.sql.execute(rows, &[]).await.expect("filled");
        let scene = Scene::with(&redis, &server, layout.clone()).await;
        for user in ["1", "2", "4"] {
            match &layout {
                InvalidUsersLayout::Keys { .. } => {
                    redis.cli(&["SET", &format!("invalid_user:{user}"), "1"]).await
                }
                InvalidUsersLayout::Set { key } => redis.cli(&["SADD", key, user]).await,
                InvalidUsersLayout::SortedSet { key } => redis.cli(&["ZADD", key, "9", user]).await,
            };
        }
        redis.cli(&["SET", "pc:standing:3", "{\"status\":\"banned\"}"]).await;
        assert_eq!(scene.filler().fill(Why::OtherServer).await.expect("filled"), Ended::Filled);
        let mut there = Vec::new();
        for user in ["1", "2", "3", "4"] {
            let command = match &layout {
                InvalidUsersLayout::Keys { .. } => vec!["EXISTS".to_owned(), format!("invalid_user:{user}")],
                InvalidUsersLayout::Set { key } => {
                    vec!["SISMEMBER".to_owned(), key.to_string(), user.to_owned()]
                }
                InvalidUsersLayout::SortedSet { key } => {
                    vec!["ZSCORE".to_owned(), key.to_string(), user.to_owned()]
                }
            };
            let reply = redis.cli(&command.iter().map(String::as_str).collect::<Vec<_>>()).await;
            there.push(!matches!(reply, ::redis::Value::Nil | ::redis::Value::Int(0)));
        }
        // Of the fourth the table says nothing.
        assert_eq!(there, [false, true, false, true], "{layout:?}");
        assert_eq!(redis.cli(&["EXISTS", "pc:standing:3"]).await, ::redis::Value::Int(0));
    }
}

#[tokio::test]
async fn the_tables_of_services_are_read_whole_however_little_of_them_is_wanted() {
    let (redis, server) = (Redis::start().await, Server::sqlite());
    let rows = 25_000;
    for statement in [
        "CREATE TABLE users (user_id INTEGER PRIMARY KEY, status TEXT NOT NULL, last_security_action DATETIME)",
        "CREATE TABLE blacklisted_tokens (token TEXT PRIMARY KEY, user_id INTEGER, expires_at DATETIME, blacklisted_at DATETIME)",
    ] {
        server.sql.execute(statement, &[]).await.expect("made");
    }
    let count = |limit: i64| {
        format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {limit})")
    };
    let users = format!(
        "{} INSERT INTO users SELECT i, CASE WHEN i % 5000 = 0 THEN 'banned' ELSE 'active' END, \
         CASE WHEN i = 7 THEN '2027-01-01 00:00:00' END FROM n",
        count(rows)
    );
    let tokens = format!(
        "{} INSERT INTO blacklisted_tokens SELECT 'a.b.' || i, i, \
         CASE WHEN i > 3 THEN '2100-01-01 00:00:00' ELSE '2001-01-01 00:00:00' END, '2026-01-01 00:00:00' FROM n",
        count(2500)
    );
    for statement in [users, tokens] {
        server.sql.execute(&statement, &[]).await.expect("filled");
    }
    let scene = Scene::new(&redis, &server).await;
    assert_eq!(scene.filler().fill(Why::Missing).await.expect("filled"), Ended::Filled);
    for (key, there) in [
        ("invalid_user:5000", 1),
        ("invalid_user:25000", 1),
        ("invalid_user:7", 0),
        ("pc:standing:7", 1),
        ("invalid_user:8", 0),
        ("blacklist:a.b.2500", 1),
        ("blacklist:a.b.4", 1),
        ("blacklist:a.b.3", 0),
    ] {
        assert_eq!(redis.cli(&["EXISTS", key]).await, ::redis::Value::Int(there), "{key}");
    }
    assert_eq!(scene.metrics.rows.get(), 5 + 1 + 2497, "only what is wanted was read");
}

#[tokio::test]
async fn who_is_let_in_while_a_page_is_written_is_looked_at_again() {
    let (redis, server) = (Redis::start().await, Server::sqlite());
    for statement in [
        "CREATE TABLE users (user_id INTEGER PRIMARY KEY, status TEXT NOT NULL)",
        "INSERT INTO users VALUES (1, 'banned'), (2, 'banned'), (3, 'active')",
    ] {
        server.sql.execute(statement, &[]).await.expect("made");
    }
    let scene = Scene::new(&redis, &server).await;
    let (filler, from) = (scene.filler(), From::Key(Vec::new()));
    let link = Arc::new(scene.stores[0].new_link(PATIENCE).await.expect("a link"));
    let sources = Source::all(&scene.writer, NOW);
    let users = sources.iter().find(|source| matches!(source, Source::Denied(..))).expect("a table");
    let page = users.read(&scene.writer, &from, 7, NOW).await.expect("read");
    // As a service does it: its table, then Redis.
    server.sql.execute("UPDATE users SET status = 'active' WHERE user_id = 1", &[]).await.expect("changed");
    redis.cli(&["DEL", "invalid_user:1"]).await;
    filler.put(&link, (users, &from), &page, 7, &mut Pace::new(&scene.metrics)).await.expect("put");
    assert_eq!(redis.cli(&["EXISTS", "invalid_user:1", "invalid_user:2"]).await, ::redis::Value::Int(2));
    let turn = tokio::time::timeout(Duration::from_secs(5), scene.rechecks.next()).await.expect("a turn");
    assert_eq!((&*turn.subject, turn.cause), ("1", Cause::Row));
    let none = tokio::time::timeout(Duration::from_millis(10), scene.rechecks.next()).await;
    assert!(none.is_err(), "{none:?}");
}

#[tokio::test]
async fn two_layouts_over_one_table_are_both_filled_from_all_of_it() {
    let (redis, server) = (Redis::start().await, Server::sqlite());
    for statement in [
        "CREATE TABLE users (user_id INTEGER PRIMARY KEY, status TEXT NOT NULL)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000) \
         INSERT INTO users SELECT i, CASE WHEN i % 5000 = 0 THEN 'banned' ELSE 'active' END FROM n",
    ] {
        server.sql.execute(statement, &[]).await.expect("made");
    }
    let layouts = [keys(), InvalidUsersLayout::Keys { prefix: "denied:".into() }];
    let both = layouts.into_iter().flat_map(|layout| presets(layout).into_iter().skip(2)).collect();
    let scene = Scene::over(&redis, &server, both).await;
    assert_eq!(scene.filler().fill(Why::Missing).await.expect("filled"), Ended::Filled);
    for user in [5000, 10_000, 15_000, 20_000, 25_000] {
        for prefix in ["invalid_user:", "denied:"] {
            let key = format!("{prefix}{user}");
            assert_eq!(redis.cli(&["EXISTS", &key]).await, ::redis::Value::Int(1), "{key}");
        }
    }
}

/// Pages of our own tables and of theirs, whatever the ids are.
async fn is_read_in_pages(server: &Server, id: &str, ids: [&str; 2]) {
    let redis = Redis::start().await;
    for statement in [
        format!("CREATE TABLE users (user_id {id} PRIMARY KEY, status VARCHAR(20) NOT NULL)"),
        format!("INSERT INTO users VALUES ('{}', 'banned'), ('{}', 'active')", ids[0], ids[1]),
    ] {
        server.sql.execute(&statement, &[]).await.expect("made");
    }
    let scene = Scene::new(&redis, server).await;
    // More than two pages, in one statement for each.
    for start in [0, 800, 1600] {
        let rows = |row: &dyn Fn(i32) -> String| (start..start + 800).map(row).collect::<Vec<_>>().join(", ");
        let users = rows(&|n| format!("('r{}', 'user-{n}', 'banned', {n}, 0, 0)", n % 3));
        let tokens = rows(&|n| format!("('jti', 'id-{n}', 0, {n})"));
        for statement in [
            format!(
                "INSERT INTO portcullis_users (realm, subject, status, version, updated_at, renewed_at) VALUES {users}"
            ),
            format!("INSERT INTO portcullis_tokens (kind, id, revoked_at, version) VALUES {tokens}"),
            format!(
                "INSERT INTO blacklisted_tokens (token, blacklisted_at) VALUES ('t.{start}', '2026-01-01 00:00:00')"
            ),
        ] {
            server.sql.execute(&statement, &[]).await.expect("filled");
        }
    }
    assert_eq!(scene.filler().fill(Why::Missing).await.expect("filled"), Ended::Filled);
    assert_eq!(scene.metrics.rows.get(), 2400 + 2400 + 1 + 3);
    let (denied, active) = (format!("invalid_user:{}", ids[0]), format!("invalid_user:{}", ids[1]));
    for (key, there) in [
        ("pc:user:r0/user-0", 1),
        ("pc:user:r2/user-2399", 1),
        ("pc:jti:id-1000", 1),
        ("pc:jti:id-2399", 1),
        ("blacklist:t.1600", 1),
        (denied.as_str(), 1),
        (active.as_str(), 0),
    ] {
        assert_eq!(redis.cli(&["EXISTS", key]).await, ::redis::Value::Int(there), "{id}: {key}");
    }
    // And by version.
    redis.cli(&["DEL", "pc:user:r0/user-0", "pc:user:r2/user-2399"]).await;
    let mark = scene.stores[0].mark().await.expect("asked").expect("a mark");
    scene.filler().close_gap(&Mark { seq: 0, ..mark.clone() }, mark.seq).await.expect("closed");
    assert_eq!(redis.cli(&["EXISTS", "pc:user:r2/user-2399"]).await, ::redis::Value::Int(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_read_in_pages() {
    let ids = ["d9428888-122b-11e1-b85c-61cd3cbb3210", "0c1c9a62-9d8e-4f0b-8d0a-1f2e3d4c5b6a"];
    is_read_in_pages(&Server::postgres().await, "uuid", ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_read_in_pages() {
    is_read_in_pages(&Server::mariadb().await, "BIGINT", ["9007199254740993", "8"]).await;
}
