# syntax=docker/dockerfile:1
# Two images of one version, for k8s/ (docs/kubernetes.md):
#   docker build --target shard  -t bitsift-shard:0.1.0 .    # nodes with data, Ray's head, commands: no model, no builds
#   docker build --target router -t bitsift-router:0.1.0 .   # routers and builds: with the model
# BASE is any Debian with Python 3.11 as python3, and its venv. MODEL is one of the hub that the larger image is to
# have besides, best as NAME@COMMIT; HF_ENDPOINT, the hub or a mirror of it.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS base
ENV DEBIAN_FRONTEND=noninteractive
# tini forwards signals and reaps what ends; libgomp1 is FAISS's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log \
    && mkdir -p /data/gcs /var/lib/bitsift /backup /work \
    && chown 10001:10001 /data/gcs /var/lib/bitsift /backup /work
ENV PATH=/opt/bitsift/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A login shell, which KubeRay uses, forgets PATH.
RUN ln -s /opt/bitsift/bin/bitsift /opt/bitsift/bin/ray /usr/local/bin/
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["tini", "--", "bitsift"]
CMD ["--help"]

# Wheels only, but for Bitsift's own kernels; each has a hash of .ci/hashes.txt, but for torch, whose builds for CPUs
# have others on each index: one of them must be what pip finds (or one for CUDA).
FROM ${BASE} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all: \
    PIP_CONSTRAINT=/src/constraints.txt
WORKDIR /src
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends binutils gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY .ci/dependencies.py .ci/locked.py .ci/hashes.txt .ci/
COPY pyproject.toml constraints.txt ./
RUN python3 -m venv /opt/bitsift \
    && python3 .ci/dependencies.py shard < pyproject.toml > shard.txt \
    && /opt/bitsift/bin/pip install --dry-run --quiet --report shard.json 'setuptools>=77' -r shard.txt \
    && python3 .ci/locked.py shard.json < .ci/hashes.txt > shard.lock \
    && /opt/bitsift/bin/pip install --no-deps --require-hashes -r shard.lock

FROM dependencies AS dependencies-router
RUN python3 .ci/dependencies.py server < pyproject.toml > server.txt \
    && /opt/bitsift/bin/pip install --no-deps torch \
    && /opt/bitsift/bin/pip install --dry-run --quiet --report server.json -r server.txt \
    && python3 .ci/locked.py server.json < .ci/hashes.txt > server.lock \
    && /opt/bitsift/bin/pip install --no-deps --require-hashes -r server.lock

FROM scratch AS code
COPY README.md LICENSE NOTICE /
COPY bitsift /bitsift
COPY cluster /cluster
COPY router /router
COPY shard_worker /shard_worker
COPY .ci/prune-image /.ci/

FROM dependencies AS build-shard
COPY --from=code / ./
RUN /opt/bitsift/bin/pip install --no-build-isolation --no-deps . \
    && /opt/bitsift/bin/pip check \
    && /opt/bitsift/bin/python -I -c 'from bitsift.shard_worker.native import kernels; assert kernels.is_there()' \
    && /opt/bitsift/bin/pip uninstall -y setuptools \
    && sh .ci/prune-image /opt/bitsift

FROM dependencies-router AS build-router
COPY --from=code / ./
RUN /opt/bitsift/bin/pip install --no-build-isolation --no-deps . \
    && /opt/bitsift/bin/pip check \
    && /opt/bitsift/bin/python -I -c 'from bitsift.shard_worker.native import kernels; assert kernels.is_there()' \
    && /opt/bitsift/bin/pip uninstall -y setuptools \
    && sh .ci/prune-image /opt/bitsift

FROM base AS shard
COPY --from=build-shard /opt/bitsift /opt/bitsift

FROM base AS with-router
COPY --from=build-router /opt/bitsift /opt/bitsift
ENV HF_HUB_CACHE=/models

# As a pod runs it: what cannot encode a text is no image.
FROM with-router AS model
ARG MODEL=minilm
ARG HF_ENDPOINT=https://huggingface.co
RUN mkdir /tmp/models \
    && HOME=/tmp XDG_CACHE_HOME=/tmp/cache HF_HUB_CACHE=/tmp/models bitsift model fetch "${MODEL}"

FROM with-router AS router
COPY --from=model --chown=10001:10001 /tmp/models /models
