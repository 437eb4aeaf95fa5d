//! The distribution's nginx in front of a service: what people have before they put Portcullis there.

use std::net::{SocketAddr, TcpStream};

use super::server::{Directory, Launch, Server, program};
use super::{free_port, within};

/// Dropped, it is gone.
pub struct Nginx {
    http: SocketAddr,
    http2: SocketAddr,
    // Dropped in this order: first the server, then what it wrote.
    _server: Server,
    _directory: Directory,
}

impl Nginx {
    /// In front of a service that speaks HTTP/1.1, and of one that speaks gRPC; tuned as for such services: nothing is
    /// buffered, and upgrades pass.
    pub fn before(service: SocketAddr, grpc: Option<SocketAddr>) -> Self {
        // The ports may be taken between finding and using them.
        for _ in 0..5 {
            let [http, http2] =
                [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            let directory = Directory::for_user(None, "portcullis-nginx-");
            let path = directory.path().display().to_string();
            let conf = directory.path().join("nginx.conf");
            std::fs::write(&conf, configuration(&path, [http, http2], service, grpc)).unwrap();
            let nginx = program(&["nginx"], "nginx");
            let error_log = format!("{path}/error.log");
            let server = Server::launch(&Launch {
                command: [&nginx, "-p", &path, "-e", &error_log, "-c", &conf.display().to_string()]
                    .map(str::to_owned)
                    .to_vec(),
                user: None,
                log: directory.path().join("nginx.log"),
                signal: "TERM",
            });
            let listens = within(super::DEADLINE, "nginx listens", || {
                if server.alive().is_err() {
                    return Ok(false);
                }
                match TcpStream::connect(http).and_then(|_| TcpStream::connect(http2)) {
                    Ok(_) => Ok(true),
                    Err(error) => Err(error),
                }
            });
            if listens {
                return Self { http, http2, _server: server, _directory: directory };
            }
        }
        panic!("nginx did not start on any of five ports")
    }

    /// Where it speaks HTTP/1.1.
    pub fn addr(&self) -> SocketAddr {
        self.http
    }

    /// Where it speaks HTTP/2 with prior knowledge.
    pub fn http2_addr(&self) -> SocketAddr {
        self.http2
    }
}

fn configuration(
    path: &str,
    [http, http2]: [SocketAddr; 2],
    service: SocketAddr,
    grpc: Option<SocketAddr>,
) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {path}/{name};\n"))
        .concat();
    let grpc = grpc.map_or(String::new(), |it| {
        format!("location /test.Shapes/ {{ grpc_pass grpc://{it}; client_max_body_size 0; }}")
    });
    let proxy = "location / {
        proxy_pass http://service;
        proxy_http_version 1.1;
        proxy_buffering off;
        proxy_request_buffering off;
        proxy_read_timeout 20s;
        proxy_pass_header Server;
        proxy_set_header Host $http_host;
        proxy_set_header Connection $connection_upgrade;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
    }";
    // As root the workers would be somebody else, who may not write here; for others the line has no effect.
    format!(
        "daemon off;
        user root root;
        worker_processes 1;
        pid {path}/pid;
        events {{ worker_connections 1024; }}
        http {{
            access_log off;
            client_max_body_size 0;
            large_client_header_buffers 8 64k;
            proxy_buffer_size 64k;
            proxy_buffers 8 64k;
            {temporary}
            map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
            upstream service {{ server {service}; keepalive 16; }}
            server {{ listen {http}; {proxy} }}
            server {{ listen {http2} http2; {proxy} {grpc} }}
        }}"
    )
}
