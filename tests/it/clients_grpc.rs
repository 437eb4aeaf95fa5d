//! Calls of a real gRPC client to a real gRPC service (grpc-core's, by way of Python): directly, behind nginx and behind
//! Portcullis they come to the same.

use std::net::SocketAddr;
use std::process::Command;

use jsonwebtoken::Algorithm;

use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::nginx::Nginx;
use crate::support::python::{self, Script};

const SERVER: &str = include_str!("support/grpc/server.py");
const CLIENT: &str = include_str!("support/grpc/client.py");

struct Service {
    script: Script,
    address: SocketAddr,
}

impl Service {
    fn start() -> Self {
        let script = Script::start(SERVER, &[]);
        let port = eventually("the service listens", || {
            let said = script.said();
            said.iter().find_map(|line| line.strip_prefix("port ")?.parse::<u16>().ok()).ok_or(said)
        });
        Self { script, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// How many calls it was told that nobody waits for.
    fn ended(&self) -> usize {
        self.script.said().iter().filter(|line| line.starts_with("ended ")).count()
    }
}

fn gateway(service: &Service, issuer: &Issuer) -> Gateway {
    Setup::new()
        .server("h2c = true\nlimits = { body_bytes = \"100MiB\" }")
        .issuer(issuer)
        .section(&format!(
            "[[upstreams]]\nname = \"grpc\"\nservers = [\"{}\"]\nhttp2 = true\n",
            service.address
        ))
        .route("path = \"/test.Shapes/{method}\"\nmethods = [\"POST\"]\nupstream = \"grpc\"")
        .start()
}

/// What came of each call, line by line.
fn calls(address: SocketAddr, token: &str) -> Vec<String> {
    let output =
        Command::new(python::program()).args(["-c", CLIENT, &address.to_string(), token]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said.lines().map(str::to_owned).collect()
}

#[test]
fn calls_of_every_shape_come_to_the_same_everywhere() {
    let (service, issuer) = (Service::start(), Issuer::new(Algorithm::ES256));
    let nginx = Nginx::before(service.address, Some(service.address));
    let gateway = gateway(&service, &issuer);
    let token = issuer.good("alice");
    let mut ended = 0;
    let mut run = |address| {
        let lines = calls(address, &token);
        ended += 2;
        // A deadline that has passed and a call that was taken back: both reach the service, long before it is done.
        eventually("the service hears that nobody waits", || match service.ended() {
            seen if seen >= ended => Ok(()),
            seen => Err((seen, service.script.said())),
        });
        lines
    };
    let directly = run(service.address);
    assert_eq!(directly.len(), 13, "{directly:#?}");
    assert_eq!(run(nginx.http2_addr()), directly, "nginx");
    assert_eq!(run(gateway.addr()), directly, "Portcullis");
    // The deadline itself was passed on too.
    assert_eq!(service.script.said().iter().filter(|it| *it == "ended slow with a deadline").count(), 3);
}

#[test]
fn a_denial_is_a_status_that_grpc_clients_know() {
    let (service, issuer) = (Service::start(), Issuer::new(Algorithm::ES256));
    let gateway = gateway(&service, &issuer);
    let token = issuer.good("mallory");
    let call = |token: &str| {
        let program = "import grpc, sys\n\
            call = grpc.insecure_channel(sys.argv[1]).unary_unary('/test.Shapes/Unary')\n\
            try: print(call(b'hello', metadata=(('authorization', 'Bearer ' + sys.argv[2]),), timeout=20))\n\
            except grpc.RpcError as error: print(error.code())";
        let output = Command::new(python::program())
            .args(["-c", program, &gateway.addr().to_string(), token])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(call(&token), "b'hello!'");
    assert_eq!(call("nonsense"), "StatusCode.UNAUTHENTICATED");
    gateway.ban("mallory");
    assert_eq!(call(&token), "StatusCode.PERMISSION_DENIED");
}
