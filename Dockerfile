# The ledger as an image: `docker build --tag holdfast .` (BuildKit, Docker's default since 23).
#
# Both stages are the same Debian release, so that the binary finds the C library it was linked
# with. The tags name versions; whoever needs builds that never change adds the digests.

FROM rust:1.95-bookworm AS builder
WORKDIR /build
# What this copies is listed in .dockerignore, which lets in nothing else.
COPY . .
# Only what was downloaded is kept between builds. Keeping `target` would be faster, but Cargo
# judges by file times, and a checkout with older times could then get yesterday's binary.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    cargo build --release --locked -p holdfast --no-default-features \
    && install -D --mode=755 target/release/holdfast /out/holdfast

FROM debian:bookworm-20260824-slim
# The certificate authorities are for NATS over TLS. The user has no home, no shell and no files.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 holdfast \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin holdfast
COPY --from=builder /out/holdfast /usr/local/bin/holdfast
# The rights to start with. A deployment mounts its own file over it.
COPY --chmod=644 nats/issuers.toml /etc/holdfast/issuers.toml

# The allocator keeps what a burst has left for a second, and then until something is freed again; with
# this it gives it back after 0.1 s.
ENV MIMALLOC_PURGE_DELAY=100

# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 6004
# No HEALTHCHECK: the image has no HTTP client, and a second process every few seconds would tell
# less than `/healthz` from outside. A ledger that cannot go on ends, and is to be started again.
ENTRYPOINT ["holdfast"]
CMD ["serve"]
