# What the workflow needs, from the pins of requirements.txt; the workflow itself is mounted:
#   docker build --tag hpaloc .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" --volume "$PWD:/work" hpaloc snakemake --cores all
# Wheels bring CUDA's libraries along: the host needs the driver and NVIDIA's container toolkit. For
# drivers older than 580 and for V100: docker build --build-arg REQUIREMENTS=requirements-cuda12.txt
FROM python:3.11-slim-bookworm

# A compiler for what torch compiles while it runs. git tells the commit, for the records of where
# results come from. tini hands a SIGTERM to all processes, so that a fold that is told to stop
# stores its state.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git tini \
    && rm -rf /var/lib/apt/lists/*

ARG REQUIREMENTS=requirements.txt
COPY requirements.txt requirements-common.txt requirements-cuda12.txt /opt/hpaloc/
RUN pip install --no-cache-dir --requirement "/opt/hpaloc/${REQUIREMENTS}"

# Any user may run it, also one that the image has no name for: Snakemake asks for a name and ends
# without one. Caches of matplotlib, torch and Snakemake go where everyone can write.
ENV HOME=/tmp \
    USER=hpaloc \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONDONTWRITEBYTECODE=1
USER 1000
WORKDIR /work
ENTRYPOINT ["tini", "-g", "--"]
CMD ["snakemake", "--cores", "all"]
