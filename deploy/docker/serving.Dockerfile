# syntax=docker/dockerfile:1
# The search service alone: no Dagster, no MLflow, no training libraries beyond what loads a model.
#
#   docker build -f deploy/docker/serving.Dockerfile --build-arg PYTHON=python:3.11-slim-bookworm@sha256:... -t predator-si/serving .
ARG PYTHON

FROM ${PYTHON} AS build
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build
COPY constraints.txt deploy/docker/serving.txt ./
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt -r serving.txt
COPY pyproject.toml README.md LICENSE ./
COPY predator_si predator_si
RUN pip install --no-deps . && python -m compileall -q /opt/venv/lib/python3.*/site-packages/predator_si
COPY deploy/docker/bill_of_materials.py /build/
RUN mkdir -p /opt/predator-si/bill && pip inspect --local | python /build/bill_of_materials.py > /opt/predator-si/bill/serving.cdx.json

FROM ${PYTHON} AS serving
RUN groupadd --gid 10001 predator && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin predator \
    && install -d -o 10001 -g 10001 /var/lib/predator-si
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/predator-si /opt/predator-si
COPY deploy/helm/predator-umbrella/values.yaml deploy/helm/predator-umbrella/values-*.yaml /opt/predator-si/values/
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp PREDATOR_SI_HOME=/var/lib/predator-si PREDATOR_SI_CHART=/opt/predator-si/values \
    HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 DO_NOT_TRACK=1
WORKDIR /tmp
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
CMD ["python", "-m", "predator_si.search", "--home", "/var/lib/predator-si", "--host", "0.0.0.0", "--port", "8080"]
