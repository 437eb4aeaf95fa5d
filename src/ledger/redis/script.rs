//! Scripts by their hash: the text of one is longer than all it works on.

use std::sync::OnceLock;

use redis::Cmd;

/// A script of this crate's own.
pub struct Lua {
    text: &'static str,
    hash: OnceLock<String>,
}

/// How a script is named to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `EVALSHA`: the server may not know it.
    Hash,
    /// `EVAL`: it knows it from then on.
    Text,
}

impl Lua {
    pub const fn new(text: &'static str) -> Self {
        Self { text, hash: OnceLock::new() }
    }

    /// The command, ready for the number of keys.
    pub fn command(&self, form: Form) -> Cmd {
        match form {
            Form::Text => {
                let mut command = redis::cmd("EVAL");
                command.arg(self.text);
                command
            }
            Form::Hash => {
                let hash = self.hash.get_or_init(|| redis::Script::new(self.text).get_hash().to_owned());
                let mut command = redis::cmd("EVALSHA");
                command.arg(hash);
                command
            }
        }
    }
}
