"""A picture of a home's asset graph: ``python -m predator_si.proof.screenshot --home .predator docs/images/asset-graph.png``.

What belongs here: a read-only Dagster webserver on a free port, a headless Chromium that looks at it, a small file. What must not: drawing.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from predator_si.errors import BadInput, Missing, PredatorError, Unavailable
from predator_si.quiet import quiet_environment
from predator_si.settings import Settings, load_settings

GRAPH = "/locations/predator_si/asset-groups/cycle/lineage"
"""The page of Dagster 1.13 that draws one group of assets."""
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
_READY_SECONDS = 120.0
_PAGE_SECONDS = 180.0
_COLOURS = 128


def picture(settings: Settings, target: Path, page: str = GRAPH, size: tuple[int, int] = (1800, 1000), budget_ms: int = 20_000) -> Path:
    """Write a PNG of one page of the home's Dagster UI, with at most 128 colours.

    Parameters
    ----------
    size
        Width and height of the window in pixels.
    budget_ms
        Virtual milliseconds that the page's scripts get before the picture is taken.

    Raises
    ------
    Missing
        There is no Chromium, or the home has no Dagster instance.
    Unavailable
        The webserver or the browser did not do its part.
    """
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise Missing(f"no browser ({', '.join(_BROWSERS)}) on PATH. On Debian: apt-get install chromium.")
    if not settings.folders.workspace.is_file():
        raise Missing(f"{settings.folders.workspace}: this home has no Dagster instance. Run `predator-si demo` or `predator-si up` first.")
    with webserver(settings) as url, tempfile.TemporaryDirectory(prefix="predator-si-browser-") as profile:
        shot = Path(profile) / "page.png"
        command = [browser, *_FLAGS, f"--user-data-dir={profile}", f"--virtual-time-budget={budget_ms}", f"--window-size={size[0]},{size[1]}"]
        try:
            ended = subprocess.run([*command, f"--screenshot={shot}", f"{url}{page}"], capture_output=True, text=True, timeout=_PAGE_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{browser} did not finish {page} within {_PAGE_SECONDS:g} s. Try again on a machine with less to do.") from error
        if not shot.is_file():
            raise Unavailable(f"{browser} took no picture (code {ended.returncode}): {ended.stderr.strip()[-300:]}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_small(shot.read_bytes()))
    return target


@contextmanager
def webserver(settings: Settings) -> Iterator[str]:
    """A read-only Dagster webserver of the home on a free loopback port, its code location loaded; the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {**os.environ, **quiet_environment(offline=True), **settings.environment()}
    command = [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", str(settings.folders.workspace), "--read-only"]
    _no_question(settings.folders.dagster)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=settings.home)
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + _READY_SECONDS
            while not _loaded(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise Unavailable(f"the Dagster webserver did not load {settings.folders.workspace}: {log.read().decode(errors='replace')[-500:]}")
                time.sleep(0.3)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _loaded(url: str) -> bool:
    import httpx

    try:
        answer = httpx.post(f"{url}/graphql", json={"query": "{ assetNodes { id } }"}, timeout=10.0, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return False
    return bool((answer.get("data") or {}).get("assetNodes"))


def _no_question(dagster_home: Path) -> None:
    """Mark Dagster's first-visit dialog as seen; homes made before the instance file said so would show it over the graph."""
    folder = dagster_home / ".nux"
    folder.mkdir(exist_ok=True)
    (folder / "nux.yaml").write_text("seen: 1\n", encoding="utf-8")


def _small(png: bytes) -> bytes:
    """The same picture with a palette: a third of the bytes."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.getcolors(maxcolors=16) is not None:
        raise Unavailable("the picture is empty: the page had drawn nothing yet. Give it a larger --budget.")
    out = io.BytesIO()
    image.quantize(colors=_COLOURS, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
    return out.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Take the picture; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m predator_si.proof.screenshot", description="A picture of a home's asset graph.")
    parser.add_argument("target", type=Path, help="PNG file to write")
    parser.add_argument("--home", type=Path, default=None, help="home folder (default: $PREDATOR_SI_HOME or ./.predator)")
    parser.add_argument("--page", default=GRAPH, help="path of the page (default: %(default)s)")
    parser.add_argument("--size", default="1800x1000", help="window in pixels (default: %(default)s)")
    parser.add_argument("--budget", type=int, default=20_000, help="virtual milliseconds for the page's scripts (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        width, _, height = chosen.size.partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise BadInput(f"--size {chosen.size!r}: WIDTHxHEIGHT in pixels, such as 1800x1000.")
        target = picture(load_settings(home=chosen.home), chosen.target, chosen.page, (int(width), int(height)), chosen.budget)
    except PredatorError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{target}: {target.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
