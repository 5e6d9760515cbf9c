"""Read docstrings out of installed packages without importing them.

What belongs here: from a package name to (qualified name, docstring) pairs, by parsing source. What must not: splitting into queries and
documents, which is ``python_docs``.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from predator_si.errors import Missing

_SKIPPED_FOLDERS = frozenset(
    {"tests", "test", "testing", "_vendor", "vendor", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__", "benchmarks", "examples"}
)
_PRIVATE_BUT_PUBLIC = frozenset({"_core", "_lib"})
"""Private folders whose functions are re-exported as the public interface (NumPy, SciPy); others are nobody's documentation."""
_ADDERS = frozenset({"add_docstr", "add_newdoc", "_add_docstr"})


def package_version(package: str) -> str:
    """The installed version; for the standard library, Python's own.

    Raises
    ------
    Missing
        The package is not installed.
    """
    if package == "stdlib":
        return ".".join(str(part) for part in sys.version_info[:3])
    try:
        return importlib.metadata.version({"sklearn": "scikit-learn"}.get(package, package))
    except importlib.metadata.PackageNotFoundError as error:
        distributions = importlib.metadata.packages_distributions().get(package)  # an import name may differ from the distribution's
        if distributions:
            return importlib.metadata.version(distributions[0])
        raise Missing(f"package {package!r} is not installed, so its documentation cannot be indexed. Install it, or leave it out of the corpus.") from error


def source_files(package: str) -> list[tuple[str, Path]]:
    """Python files of an installed package as (dotted module name, path), sorted by name.

    Raises
    ------
    Missing
        The package is not installed.
    """
    if package == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        prefix: tuple[str, ...] = ()
    else:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise Missing(f"package {package!r} is not installed, so its documentation cannot be indexed. Install it, or leave it out of the corpus.")
        root = Path(next(iter(spec.submodule_search_locations)))
        prefix = (package,)
    found = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        private = any(part.startswith("_") and part not in _PRIVATE_BUT_PUBLIC for part in parts[:-1])
        if _SKIPPED_FOLDERS.isdisjoint(parts) and not private and not parts[-1].startswith("test_"):
            names = prefix + (parts[:-1] if parts[-1] == "__init__" else parts)
            if names:
                found.append((".".join(names), path))
    return sorted(found)


def docstrings(package: str) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, cleaned docstring) of public modules, classes and functions, in a stable order.

    Calls such as ``add_docstr(torch.abs, "...")``, by which C extensions document their functions, are read too. Files that do not parse
    (other Python versions' syntax) are left out.
    """
    for module, path in source_files(package):
        if any(part.startswith("_") for part in module.split(".")) and not module.endswith("_docs"):
            public_module = ".".join(part for part in module.split(".") if not part.startswith("_"))
        else:
            public_module = module
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            continue
        yield from _walk(tree, public_module or module)


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield name, text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not child.name.startswith("_"):
                yield from _walk(child, f"{name}.{child.name}")
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from _walk(child, name)
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            yield from _added(child.value)


def _added(call: ast.Call) -> Iterator[tuple[str, str]]:
    function = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""
    if function not in _ADDERS or len(call.args) < 2:
        return
    strings = [node.value for argument in call.args[1:] for node in ast.walk(argument) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    if not strings:
        return
    target, member = call.args[0], call.args[1]
    if isinstance(target, ast.Constant) and isinstance(target.value, str):  # add_newdoc("numpy._core.multiarray", "array", doc or (method, doc))
        place = [target.value, *([member.value] if len(strings) > 1 and isinstance(member, ast.Constant) and isinstance(member.value, str) else [])]
        if len(call.args) > 2 and isinstance(call.args[2], ast.Tuple) and isinstance(call.args[2].elts[0], ast.Constant):
            place.append(str(call.args[2].elts[0].value))
        name = ".".join(part for whole in place for part in whole.split(".") if not part.startswith("_")) or place[-1]
    else:
        name = ast.unparse(target)
    text = inspect.cleandoc(max(strings, key=len))
    yield name, text
