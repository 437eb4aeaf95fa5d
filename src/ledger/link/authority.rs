//! Whether Redis holds the whole truth. The question rides along in every read and every fence, so that a Redis that was
//! emptied or exchanged is found out by the very answer it would falsify.

use redis::{Pipeline, Value};

/// Who judges that.
pub trait Authority: Send + Sync {
    /// Puts its one command at the end of a pipeline that is about to be sent. What it gives back belongs to
    /// [`Authority::believes`]: whatever had to be known before the sending.
    fn ask(&self, pipeline: &mut Pipeline) -> u64;

    /// Whether the answers that came with this one are to be believed.
    fn believes(&self, before: u64, reply: &Value) -> bool;

    /// A new connection leads to the process with this `run_id` (`INFO server`); `None` where it does not tell.
    fn connected(&self, run_id: Option<&str>);
}

/// Believes every Redis that answers.
#[derive(Debug)]
pub struct Believing;

impl Authority for Believing {
    fn ask(&self, pipeline: &mut Pipeline) -> u64 {
        pipeline.cmd("EXISTS").arg(super::prefixes::WATERMARK);
        0
    }

    fn believes(&self, _: u64, reply: &Value) -> bool {
        matches!(reply, Value::Int(_))
    }

    fn connected(&self, _: Option<&str>) {}
}
