"""A bill of materials (CycloneDX 1.6) of the Python packages in an image: ``pip inspect --local | python bill_of_materials.py``.

What belongs here: one translation, with nothing but the standard library, since it runs while an image is built. What must not: Debian packages of the base
image, which its own bill lists. The same environment gives the same bytes.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any


def bill_of_materials(inspected: dict[str, Any]) -> dict[str, Any]:
    """The bill of what ``pip inspect`` found.

    Raises
    ------
    ValueError
        It is no report of ``pip inspect``, or one without a package.
    """
    installed = inspected.get("installed")
    if not installed:
        raise ValueError("this is no report of `pip inspect --local`, or one without a package: pipe its output in")
    components = [_component(package["metadata"]) for package in installed]
    components.sort(key=lambda component: str(component["bom-ref"]))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"properties": [{"name": "python", "value": str(inspected.get("environment", {}).get("python_full_version", ""))}]},
        "components": components,
    }


def _component(metadata: dict[str, Any]) -> dict[str, Any]:
    # the normalised name of PEP 503, which is also the one of a package URL
    name = re.sub(r"[-_.]+", "-", metadata["name"]).lower()
    where = f"pkg:pypi/{name}@{metadata['version']}"
    component: dict[str, Any] = {"type": "library", "bom-ref": where, "name": name, "version": metadata["version"], "purl": where}
    if metadata.get("license_expression"):
        component["licenses"] = [{"expression": metadata["license_expression"]}]
    elif metadata.get("license"):
        component["licenses"] = [{"license": {"name": metadata["license"].splitlines()[0][:200]}}]
    return component


if __name__ == "__main__":
    json.dump(bill_of_materials(json.load(sys.stdin)), sys.stdout, indent=1)
