# syntax=docker/dockerfile:1
# Built with `docker build --tag portcullis .`. The result holds one program, no shell, and runs as nobody in particular.

FROM rust:1-bookworm AS build
# Pingora's TLS library is compiled with cmake; the C compiler is in the image already.
RUN apt-get update \
 && apt-get install -y --no-install-recommends cmake \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
# Named by the manifest, so cargo asks for them; nothing of them is built.
COPY benches benches
COPY fuzz fuzz
# The caches are not part of the layer: the binary is copied out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin portcullis \
 && cp target/release/portcullis /portcullis \
 && mkdir -p /data

# The C library of the same Debian, and the CA certificates with which key sets and rediss:// are reached.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /portcullis /usr/local/bin/portcullis
# The embedded ledger of a relative URL (sqlite://portcullis.db) lies here.
COPY --from=build --chown=nonroot:nonroot /data /var/lib/portcullis
VOLUME /var/lib/portcullis
WORKDIR /var/lib/portcullis
# Every command finds it without `-c`: `docker exec … portcullis user ban 42`.
ENV PORTCULLIS_CONFIG=/etc/portcullis/gateway.toml
USER nonroot
# The admin listener is on the container's loopback unless the configuration says otherwise: it is not exposed.
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["/usr/local/bin/portcullis", "health"]
ENTRYPOINT ["/usr/local/bin/portcullis"]
CMD ["run"]
