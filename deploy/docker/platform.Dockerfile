# syntax=docker/dockerfile:1
# Webservers, daemon, code server, API, MLflow, and runs without a GPU.
#
#   docker build -f deploy/docker/platform.Dockerfile --build-arg PYTHON=python:3.11-slim-bookworm@sha256:... -t predator-si/platform .
#
# PYTHON has no default: a base image by tag would be another one tomorrow. TORCH_INDEX: where the CPU build of torch comes from; empty means the plain index,
# whose build for Linux carries CUDA. EXTRA_PACKAGES: what the object store of the compute logs needs ("s3fs", "gcsfs").
ARG PYTHON

FROM ${PYTHON} AS build
ARG TORCH_INDEX=""
ARG EXTRA_PACKAGES=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build
# Libraries before our own code: they change rarely, and a change of ours does not fetch them again.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY predator_si/__init__.py predator_si/__init__.py
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt ".[k8s,postgres,langsmith]" ${EXTRA_PACKAGES} && pip uninstall --yes predator_si
COPY predator_si predator_si
RUN pip install --no-deps . && python -m compileall -q /opt/venv/lib/python3.*/site-packages/predator_si
# The bill of materials (CycloneDX 1.6), from what is really installed.
COPY deploy/docker/bill_of_materials.py /build/
RUN mkdir -p /opt/predator-si/bill && pip inspect --local | python /build/bill_of_materials.py > /opt/predator-si/bill/platform.cdx.json

FROM ${PYTHON} AS platform
# Git: the loop commits; the SSH client: to a remote repository.
RUN apt-get update && apt-get install --yes --no-install-recommends git openssh-client && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 predator && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin predator \
    && install -d -o 10001 -g 10001 /var/lib/predator-si /opt/dagster/home
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/predator-si /opt/predator-si
COPY deploy/helm/predator-umbrella/values.yaml deploy/helm/predator-umbrella/values-*.yaml /opt/predator-si/values/
COPY workspace.yaml /opt/dagster/workspace.yaml
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    DAGSTER_HOME=/opt/dagster/home PREDATOR_SI_HOME=/var/lib/predator-si PREDATOR_SI_CHART=/opt/predator-si/values \
    DAGSTER_DISABLE_TELEMETRY=1 DBT_SEND_ANONYMOUS_USAGE_STATS=false DO_NOT_TRACK=1 MLFLOW_DISABLE_TELEMETRY=true HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
WORKDIR /opt/dagster
USER 10001:10001
EXPOSE 3000 4000 5000 8000
# Plain Docker has no probes; in a cluster the chart's probes are asked instead.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '8000') + '/health', timeout=4)"]
CMD ["python", "-m", "predator_si.api", "--host", "0.0.0.0", "--port", "8000"]
