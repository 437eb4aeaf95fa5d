//! Whether Redis holds the whole truth. The question rides along in every read and every fence, so that a Redis that was
//! emptied or exchanged is found out by the very answer it would falsify. Here every Redis that answers is believed.

use redis::{Cmd, Value};

use super::prefixes::WATERMARK;

/// Who judges that.
#[derive(Debug)]
pub struct Authority {
    command: Cmd,
}

/// What was known before a question was sent; to be handed to [`Authority::hear`] with the reply.
#[derive(Clone, Copy, Debug)]
pub struct Captured;

impl Authority {
    pub fn new() -> Self {
        let mut command = redis::cmd("EXISTS");
        command.arg(WATERMARK);
        Self { command }
    }

    /// What is asked behind the questions.
    pub fn command(&self) -> Option<&Cmd> {
        Some(&self.command)
    }

    /// To be called before they are sent.
    pub fn capture(&self) -> Captured {
        Captured
    }

    /// Whether the answers that came with this one are to be believed. `server`: its `run_id`, or nothing.
    pub fn hear(&self, _: Captured, reply: &Value, _server: &str) -> bool {
        matches!(reply, Value::Int(_))
    }
}
