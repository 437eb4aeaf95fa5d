# syntax=docker/dockerfile:1
# Built with `make docker`. The result holds one program, no shell, and runs as nobody in particular.

FROM rust:1-bookworm AS build
# Pingora's TLS library is compiled with cmake; the C compiler is in the image already.
RUN apt-get update \
 && apt-get install -y --no-install-recommends cmake \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
# The caches are not part of the layer: the binary is copied out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin portcullis \
 && cp target/release/portcullis /portcullis \
 && mkdir -p /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /portcullis /usr/local/bin/portcullis
# Relative paths in the configuration (the embedded ledger, the audit file) lead here.
COPY --from=build --chown=nonroot:nonroot /data /var/lib/portcullis
VOLUME /var/lib/portcullis
WORKDIR /var/lib/portcullis
USER nonroot
EXPOSE 8080 9900
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["/usr/local/bin/portcullis", "health", "-c", "/etc/portcullis/gateway.toml"]
ENTRYPOINT ["/usr/local/bin/portcullis"]
CMD ["run", "-c", "/etc/portcullis/gateway.toml"]
