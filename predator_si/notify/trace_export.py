"""Send a cycle's tree: OTLP over HTTP (an MLflow server by default), or LangSmith.

What belongs here: the two languages. What must not: what a tree holds. OpenTelemetry and LangSmith are loaded here, when a tree is sent, and nowhere else.

LangSmith gets each node as a run of type ``chain``: inputs are empty by design, outputs are the attributes. ``langsmith.traceable`` measures the
call that it decorates; our nodes were measured before, in other processes, so the client's ``create_run`` is used instead, which is what ``traceable`` calls.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from predator_si import __version__
from predator_si.errors import BadInput, Unavailable
from predator_si.notify.secrets import parts_of, scrub
from predator_si.notify.tracing import LANGSMITH, STANDARD, VARIABLE, SpanFact, span_id, trace_id

SECONDS = 10.0
EXPERIMENT = "predator_si"


def send(cycle_id: str, facts: Sequence[SpanFact], env: Mapping[str, str] = os.environ) -> list[str]:
    """Send a tree to every place that the environment names; which ones took it.

    Raises
    ------
    Unavailable
        One of them does not take it.
    """
    took: list[str] = []
    said = env.get(VARIABLE, "").strip()
    if said.startswith("mlflow:"):
        server = said.removeprefix("mlflow:").rstrip("/")
        send_otlp(cycle_id, facts, f"{server}/v1/traces", {"x-mlflow-experiment-id": mlflow_experiment(server)})
        took.append("mlflow")
    elif said or env.get(STANDARD, "").strip():
        send_otlp(cycle_id, facts, said or env[STANDARD].strip(), _headers(env))
        took.append("otlp")
    if env.get(LANGSMITH, "").strip():
        address = env.get("LANGSMITH_ENDPOINT", "").strip() or "https://api.smith.langchain.com"
        send_langsmith(cycle_id, facts, address, env[LANGSMITH].strip(), env.get("LANGSMITH_PROJECT", "").strip() or EXPERIMENT)
        took.append("langsmith")
    return took


def mlflow_experiment(server: str) -> str:
    """Id of the loop's experiment on an MLflow server; its default one where the loop has none yet.

    Raises
    ------
    Unavailable
        The server does not answer.
    """
    import httpx

    try:
        answer = httpx.get(f"{server}/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": EXPERIMENT}, timeout=SECONDS, trust_env=False)
        return str(answer.json()["experiment"]["experiment_id"]) if answer.status_code == 200 else "0"
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise Unavailable(f"{server}: the MLflow server does not answer ({type(error).__name__}); the trace is sent again later.") from error


def send_otlp(cycle_id: str, facts: Sequence[SpanFact], endpoint: str, headers: Mapping[str, str]) -> None:
    """Post the tree to an OTLP/HTTP endpoint.

    Raises
    ------
    Unavailable
        It does not take it.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, TraceFlags
    from opentelemetry.trace.status import Status, StatusCode

    def context(key: str) -> SpanContext:
        return SpanContext(trace_id(cycle_id), span_id(cycle_id, key), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    resource = Resource({"service.name": "predator_si", "service.version": __version__})
    scope = InstrumentationScope("predator_si", __version__)
    spans = [
        ReadableSpan(
            fact.name,
            context=context(fact.key),
            parent=context(fact.parent) if fact.parent is not None else None,
            resource=resource,
            attributes=dict(fact.attributes),
            events=[Event(name, dict(told), timestamp=_nanoseconds(at)) for at, name, told in fact.events],
            status=Status(StatusCode.ERROR, fact.error) if fact.error is not None else Status(StatusCode.OK),
            start_time=_nanoseconds(fact.start),
            end_time=max(_nanoseconds(fact.end), _nanoseconds(fact.start)),
            instrumentation_scope=scope,
        )
        for fact in facts
    ]
    exporter = OTLPSpanExporter(endpoint=endpoint, headers=dict(headers), timeout=SECONDS)
    try:
        done = exporter.export(spans)
    except Exception as error:  # whatever the transport raises
        raise Unavailable(f"{endpoint}: the trace of {cycle_id} was not taken ({type(error).__name__}); it is sent again later.") from None
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]
    if done is not SpanExportResult.SUCCESS:
        raise Unavailable(f"{endpoint}: the trace of {cycle_id} was not taken; it is sent again later. See the collector's log.")


def send_langsmith(cycle_id: str, facts: Sequence[SpanFact], address: str, key: str, project: str) -> None:
    """Send the tree as runs of a LangSmith project.

    Raises
    ------
    BadInput
        langsmith is not installed.
    Unavailable
        The server does not take it.
    """
    try:
        from langsmith import Client
    except ImportError as error:
        raise BadInput(f"{LANGSMITH} is set, and langsmith is not installed: pip install 'predator_si[langsmith]', or unset the variable.") from error
    problems: list[str] = []
    client = Client(
        api_url=address,
        api_key=key,
        hide_inputs=True,
        omit_traced_runtime_info=True,
        tracing_sampling_rate=1.0,
        timeout_ms=int(SECONDS * 1000),
        tracing_error_callback=lambda error: problems.append(type(error).__name__),
    )
    root = uuid.UUID(int=trace_id(cycle_id), version=4)
    ids = {fact.key: root if fact.parent is None else uuid.uuid5(root, fact.key) for fact in facts}
    orders: dict[str, str] = {}
    try:
        for fact in facts:
            place = f"{fact.start.astimezone(UTC):%Y%m%dT%H%M%S%fZ}{ids[fact.key]}"
            orders[fact.key] = place if fact.parent is None else f"{orders.get(fact.parent, place)}.{place}"
            told: dict[str, Any] = {
                "id": ids[fact.key],
                "trace_id": root,
                "dotted_order": orders[fact.key],
                "start_time": fact.start.astimezone(UTC),
                "end_time": fact.end.astimezone(UTC),
                "outputs": dict(fact.attributes),
                "error": fact.error,
                "events": [{"name": name, "time": at.astimezone(UTC).isoformat(), "kwargs": dict(more)} for at, name, more in fact.events],
            }
            if fact.parent in ids:
                told["parent_run_id"] = ids[fact.parent]
            client.create_run(fact.name, {}, "chain", project_name=project, **told)
        client.flush()
    except Exception as error:
        raise Unavailable(
            scrub(f"{address}: LangSmith did not take the trace of {cycle_id} ({type(error).__name__}); it is sent again later.", parts_of(key))
        ) from None
    finally:
        client.close()
    if problems:
        raise Unavailable(f"{address}: LangSmith did not take the trace of {cycle_id} ({', '.join(sorted(set(problems)))}); it is sent again later.")


def _headers(env: Mapping[str, str]) -> dict[str, str]:
    """``name=value,name=value`` of the standard variable."""
    pairs = (pair.partition("=") for pair in env.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "").split(",") if "=" in pair)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000
