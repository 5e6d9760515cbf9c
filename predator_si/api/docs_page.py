"""``GET /docs``: the OpenAPI document as one page without scripts, so that it works with no network and under the strictest policy.

What belongs here: drawing. What must not: what the calls are (``routes``).
"""

from __future__ import annotations

import json
from typing import Any

from predator_si.api.access import NEEDS
from predator_si.reports.page import Markup, element, joined, page, pill, section, table


def docs_page(document: dict[str, Any], base: str) -> str:
    """The page of an OpenAPI document; ``base`` is the common beginning of the guarded calls."""
    calls = [(path, method, call) for path, methods in document["paths"].items() for method, call in methods.items()]
    address = document["servers"][0]["url"]
    head = element(
        "header",
        element("h1", document["info"]["title"]),
        element("p", document["info"]["description"]),
        element("p", "Errors are problem documents (RFC 9457) with detail, next_step and request_id. ", element("a", "/openapi.json", href="/openapi.json")),
    )
    return page("API", "en", joined([head, *(_call(document, address, path, method.upper(), call, base) for path, method, call in calls)]))


def _call(document: dict[str, Any], address: str, path: str, method: str, call: dict[str, Any], base: str) -> Markup:
    role = NEEDS.get((method, path))
    said = [element("p", call.get("description", "")), pill(f"role: {role.value}" if role else "everybody", "open" if role else "plain")]
    parameters = [
        (element("code", one["name"]), one["in"], "needed" if one.get("required") else "", one.get("description", ""), json.dumps(one["schema"].get("default")))
        for one in call.get("parameters", [])
        if one["name"] not in ("Idempotency-Key", "accept-language")
    ]
    if parameters:
        said.append(table(("parameter", "in", "", "meaning", "default"), parameters))
    asked = _example(document, call.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema"))
    said += [element("h3", "example"), element("code", _curl(address, path, method, call, asked))]
    answer = _example(document, _answer_schema(call))
    if answer is not None:
        said += [element("h3", "answer"), element("pre", element("code", json.dumps(answer, indent=2, ensure_ascii=False)))]
    return section(f"{method} {path.removeprefix(base) if path.startswith(base) else path}", *said)


def _answer_schema(call: dict[str, Any]) -> dict[str, Any] | None:
    good: dict[str, Any] = next((content for status, content in sorted(call["responses"].items()) if status.startswith("2")), {})
    found: dict[str, Any] | None = good.get("content", {}).get("application/json", {}).get("schema")
    return found


def _example(document: dict[str, Any], schema: dict[str, Any] | None) -> Any:
    """The first example of a schema, through references and alternatives."""
    if not schema:
        return None
    if "$ref" in schema:
        return _example(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    for option in schema.get("anyOf", ()):
        if (found := _example(document, option)) is not None:
            return found
    return schema["examples"][0] if schema.get("examples") else None


def _curl(address: str, path: str, method: str, call: dict[str, Any], asked: Any) -> str:
    for one in call.get("parameters", ()):
        example = next(iter(one["schema"].get("examples", ())), next(iter(one.get("examples", ())), None))
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", str(example))
    needed = [one for one in call.get("parameters", ()) if one["in"] == "query" and one.get("required")]
    query = "&".join(f"{one['name']}={next(iter(one['schema'].get('examples', ())), '...')}" for one in needed)
    words = ["curl", *(["-X", method] if method != "GET" else []), f"'{address}{path}{'?' + query if query else ''}'"]
    if asked is not None:
        words += ["-H", "'Content-Type: application/json'", "-d", f"'{json.dumps(asked)}'"]
    return " ".join(words)
