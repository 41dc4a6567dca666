# Not Alpine: Temporal's native core needs glibc.
FROM node:24-bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates
WORKDIR /pgleap
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev
COPY bin bin
COPY src src
RUN mkdir /artifacts
# The native part of the compiler of workflows, where it looks first. Else it unpacks that before each first use, to a folder that
# it may write and nobody else: a pod with a read-only root has none.
RUN SWC_NATIVE_BINDING_CACHE=/swc node -e "require('@swc/core')" && install -m 644 /swc/*/*/*.node node_modules/@swc/core/swc.linux-$(node -p process.arch)-gnu.node

# Neither npm nor a package manager's leavings: the Node that runs is the one among the dependencies.
FROM debian:bookworm-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /pgleap /pgleap
COPY --from=build --chown=10001:10001 /artifacts /artifacts
WORKDIR /pgleap
USER 10001:10001
# A folder below the volume's root: that belongs to whoever made the volume.
ENV HOME=/tmp PGLEAP_ARTIFACTS=/artifacts/pgleap
VOLUME /artifacts
# The shell in front of Node replaces itself, so SIGTERM reaches the worker, which then ends within 20 s.
ENTRYPOINT ["/pgleap/bin/pgleap"]
CMD ["worker", "--json"]
