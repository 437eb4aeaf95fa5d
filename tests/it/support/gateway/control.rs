//! What an operator tells a gateway: by the control listener, and by the command line.

use std::process::{Command, Output};

use serde_json::Value;

use super::{BINARY, Gateway, assert_clean};
use crate::support::leaks;
use crate::support::raw::{self, Response};

impl Gateway {
    /// A control call with the token; a body that is not null goes as JSON.
    pub fn control(&self, method: &str, path: &str, body: &Value) -> Response {
        let bearer = format!("Authorization: Bearer {}", self.admin_token);
        match body {
            Value::Null => raw::request(self.admin, method, path, &[&bearer], b""),
            body => {
                let headers = [bearer.as_str(), "Content-Type: application/json"];
                raw::request(self.admin, method, path, &headers, body.to_string().as_bytes())
            }
        }
    }

    /// Sets a user's status; anything but success fails the test.
    pub fn set_status(&self, user: &str, status: &str) -> Value {
        let body = serde_json::json!({ "status": status, "reason": "a test" });
        let response = self.control("PUT", &format!("/v1/users/{user}/status"), &body);
        assert!(matches!(response.status, 200 | 202), "{response:?}");
        response.json()
    }

    pub fn ban(&self, user: &str) -> Value {
        self.set_status(user, "banned")
    }

    pub fn activate(&self, user: &str) -> Value {
        self.set_status(user, "active")
    }

    pub fn logout(&self, user: &str) -> Value {
        let response = self.control("POST", &format!("/v1/users/{user}/logout"), &Value::Null);
        assert!(matches!(response.status, 200 | 202), "{response:?}");
        response.json()
    }

    pub fn revoke_token(&self, token: &str) -> Value {
        let response = self.control("POST", "/v1/tokens/revoke", &serde_json::json!({ "token": token }));
        assert!(matches!(response.status, 200 | 202), "{response:?}");
        response.json()
    }

    /// Runs a command of the CLI as its client.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let token_file = self.directory.path().join("admin.token");
        let output = Command::new(BINARY)
            .args(arguments)
            .current_dir(self.directory.path())
            .args(["--admin", &format!("http://{}", self.admin)])
            .arg("--admin-token-file")
            .arg(token_file)
            .output()
            .unwrap();
        assert_clean(leaks::search("the CLI's error output", &output.stderr));
        output
    }
}
