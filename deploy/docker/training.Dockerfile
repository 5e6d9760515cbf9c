# syntax=docker/dockerfile:1
# Runs that train on a GPU: the same code and pins on a CUDA base, with torch's CUDA build.
#
#   docker build -f deploy/docker/training.Dockerfile --build-arg CUDA=nvidia/cuda:...-runtime-ubuntu24.04@sha256:... --build-arg PYTHON=python3.12 -t predator-si/training .
#
# CUDA has no default, for the reason that PYTHON has none in platform.Dockerfile. It must bring the CUDA version that torch's build was made for.
ARG CUDA

FROM ${CUDA} AS build
ARG PYTHON=python3.12
ARG EXTRA_PACKAGES=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install --yes --no-install-recommends ${PYTHON} ${PYTHON}-venv && rm -rf /var/lib/apt/lists/* && ${PYTHON} -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY predator_si/__init__.py predator_si/__init__.py
RUN pip install -c constraints.txt ".[k8s,postgres,langsmith]" ${EXTRA_PACKAGES} && pip uninstall --yes predator_si
COPY predator_si predator_si
RUN pip install --no-deps . && python -m compileall -q /opt/venv/lib/python3.*/site-packages/predator_si
COPY deploy/docker/bill_of_materials.py /build/
RUN mkdir -p /opt/predator-si/bill && pip inspect --local | python /build/bill_of_materials.py > /opt/predator-si/bill/training.cdx.json

FROM ${CUDA} AS training
ARG PYTHON=python3.12
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ${PYTHON} git openssh-client && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 predator && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin predator \
    && install -d -o 10001 -g 10001 /var/lib/predator-si /opt/dagster/home
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/predator-si /opt/predator-si
COPY deploy/helm/predator-umbrella/values.yaml deploy/helm/predator-umbrella/values-*.yaml /opt/predator-si/values/
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    DAGSTER_HOME=/opt/dagster/home PREDATOR_SI_HOME=/var/lib/predator-si PREDATOR_SI_CHART=/opt/predator-si/values \
    DAGSTER_DISABLE_TELEMETRY=1 DBT_SEND_ANONYMOUS_USAGE_STATS=false DO_NOT_TRACK=1 MLFLOW_DISABLE_TELEMETRY=true HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
WORKDIR /opt/dagster
USER 10001:10001
# A run has no port to ask: it is healthy while it sees its GPU.
HEALTHCHECK --interval=60s --timeout=30s --start-period=60s --retries=3 CMD ["python", "-c", "import torch, sys; sys.exit(not torch.cuda.is_available())"]
CMD ["dagster", "api", "execute_run", "--help"]
