//! Bans that an older copy of Redis has brought back, and that services have lifted since in their own table: they were
//! never told as changes, so that nothing has a version that would say so.
//!
//! Whatever is listed and was not written while Redis was filled is looked up in the table; where the user is active the
//! entry goes. A service may just be between its two writes: so after a while the table is asked once more, and who is
//! denied by then is listed again. Until that is done Redis is not believed, and nobody passes meanwhile.

use std::sync::Arc;
use std::time::Duration;

use super::{FillError, Filler, Keep, Pace, Parcel};
use crate::ledger::change::Status;
use crate::ledger::preset::{Standing, UserLayout, standing_of};
use crate::ledger::redis::{Link, Walk};
use crate::ledger::store::StoreError;
use crate::time::Timestamp;

/// How long a service may take between writing to Redis and writing to its table.
const BETWEEN: Duration = Duration::from_secs(2);
/// Users remembered for the second look.
const REMEMBERED: usize = 100_000;

impl Filler<'_> {
    /// `version`: what everything that denies has been written as.
    pub(super) async fn lift(
        &self,
        link: &Arc<Link>,
        keep: &Keep<'_>,
        version: i64,
        pace: &mut Pace<'_>,
    ) -> Result<(), FillError> {
        let context = &self.writer.context;
        for layout in self.writer.users().filter(|layout| layout.decides_alone(context)) {
            let mut lifted = Vec::new();
            for listing in layout.listings() {
                let mut walk = Some(Walk::default());
                while let Some(at) = walk {
                    let scanned = self.redis.scan(link, &listing, &at).await;
                    let (next, subjects) = scanned.map_err(FillError::Redis)?;
                    let stale = self.redis.not_written_as(link, &listing, subjects, version).await;
                    for subject in stale.map_err(FillError::Redis)? {
                        if self.take_off(link, layout, &subject, version, pace).await? {
                            lifted.push(subject);
                        }
                    }
                    keep.renew().await?;
                    if next.is_none() || lifted.len() >= REMEMBERED {
                        self.look_again(link, layout, &mut lifted, version, pace).await?;
                    }
                    walk = next;
                }
            }
        }
        Ok(())
    }

    async fn take_off(
        &self,
        link: &Arc<Link>,
        layout: &dyn UserLayout,
        subject: &str,
        version: i64,
        pace: &mut Pace<'_>,
    ) -> Result<bool, FillError> {
        let Some(standing) = self.look(layout, subject, version).await? else { return Ok(false) };
        if standing.status != Status::Active {
            return Ok(false);
        }
        let mut writes = layout.writes(&standing, &self.writer.context, Timestamp::now());
        writes.retain(|write| !write.puts());
        self.write(link, &[Parcel::permissive(writes, version)], pace).await?;
        Ok(true)
    }

    async fn look_again(
        &self,
        link: &Arc<Link>,
        layout: &dyn UserLayout,
        lifted: &mut Vec<String>,
        version: i64,
        pace: &mut Pace<'_>,
    ) -> Result<(), FillError> {
        if lifted.is_empty() {
            return Ok(());
        }
        tracing::info!(
            users = lifted.len(),
            "An older copy of Redis denied users whom the database does not"
        );
        tokio::time::sleep(BETWEEN).await;
        for subject in lifted.drain(..) {
            let Some(standing) = self.look(layout, &subject, version).await? else { continue };
            let writes = layout.writes(&standing, &self.writer.context, Timestamp::now());
            self.write(link, &[Parcel::restrictive(writes, version)], pace).await?;
        }
        Ok(())
    }

    /// What the table says of a user; `None` where there is no such user, or no such id can be asked about.
    async fn look(
        &self,
        layout: &dyn UserLayout,
        subject: &str,
        version: i64,
    ) -> Result<Option<Standing>, FillError> {
        let Some((sql, id)) = layout.row_query(&self.writer.context, subject) else { return Ok(None) };
        let rows = self.writer.sql.rows(&sql, &[id]).await;
        let rows = rows.map_err(|error: StoreError| FillError::Database(error))?;
        Ok(rows.first().map(|row| Standing { version, ..standing_of(subject, row) }))
    }
}
