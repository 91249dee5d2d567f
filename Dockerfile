# syntax=docker/dockerfile:1
# leakcheck as an image with nothing in it but the program, static. `docker build -t leakcheck .`
#
# Without the built-in lab: it is made of user namespaces, which containers are seldom allowed. `--build-arg FEATURES=` has it in.
#
# The image names no user: to audit with the engine's socket it needs no root, but the group of that socket, which only the host knows
# (`--user 65534:$(stat -c %g /var/run/docker.sock)`).
FROM rust:1.95-alpine AS build
ARG FEATURES=--no-default-features
# Set by BuildKit; in the path, so that a release can put programs here that were built elsewhere (--build-context build=DIR).
ARG TARGETARCH
RUN apk add --no-cache musl-dev
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist --bin leakcheck $FEATURES \
    && mkdir -p "/out/$TARGETARCH" && mv target/dist/leakcheck "/out/$TARGETARCH/leakcheck"

FROM scratch
ARG TARGETARCH
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="leakcheck" \
      org.opencontainers.image.description="Proves that a VPN stack does not leak" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /out/$TARGETARCH/leakcheck /leakcheck
ENTRYPOINT ["/leakcheck"]
CMD ["run", "--report-dir", "none"]
