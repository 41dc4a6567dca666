# Not Alpine: Temporal's native core needs glibc.
FROM node:24-bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
WORKDIR /pgleap
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev
COPY bin bin
COPY src src
RUN mkdir /artifacts && chown node:node /artifacts
USER node
ENV PGLEAP_ARTIFACTS=/artifacts
VOLUME /artifacts
ENTRYPOINT ["/pgleap/bin/pgleap"]
CMD ["worker", "--json"]
