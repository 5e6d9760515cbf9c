"""Pictures of a home's Dagster UI and of its operations page: ``python -m predator_si.proof.screenshot --home .predator docs/images/asset-graph.png``.

What belongs here: a read-only Dagster webserver and the API on free ports, a headless Chromium that looks at them, a small file. What must not: drawing.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from predator_si.errors import BadInput, Missing, PredatorError, Unavailable
from predator_si.quiet import quiet_environment
from predator_si.settings import Settings, load_settings

GRAPH = "/locations/predator_si/asset-groups/cycle/lineage"
"""The page of Dagster 1.13 that draws one group of assets."""
Site = Literal["dagster", "operations"]
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
_READY_SECONDS = 120.0
_STILL_SECONDS = 3.0
_COLOURS = 128


def picture(
    settings: Settings,
    target: Path,
    page: str = GRAPH,
    size: tuple[int, int] = (1800, 1000),
    last: str = "rollback",
    direction: str = "horizontal",
    keep: int | None = None,
    site: Site = "dagster",
    words: Sequence[str] = (),
) -> Path:
    """Write a PNG of one page of the home's Dagster UI, or of its operations page, with at most 128 colours.

    Parameters
    ----------
    size
        Width and height of the window in pixels.
    last
        Text that the page shows once it is complete.
    direction
        In which a graph is drawn: ``horizontal`` shows all of it, ``vertical`` its middle with every detail.
    keep
        Rows of pixels from the top that go into the picture; all when None.
    site
        Whose page it is.
    words
        What the page must show besides; a picture of anything else is not taken.

    Raises
    ------
    Missing
        There is no Chromium, or the home has no Dagster instance.
    Unavailable
        The webserver, the API or the browser did not do its part, or the page shows something else.
    """
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise Missing(f"no browser ({', '.join(_BROWSERS)}) on PATH. On Debian: apt-get install chromium.")
    if not settings.folders.workspace.is_file():
        raise Missing(f"{settings.folders.workspace}: this home has no Dagster instance. Run `predator-si demo` or `predator-si up` first.")
    serve = webserver if site == "dagster" else operations
    with serve(settings) as url, tempfile.TemporaryDirectory(prefix="predator-si-browser-", ignore_cleanup_errors=True) as profile:
        command = [browser, *_FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "--remote-debugging-port=0", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            png = _capture(_devtools(process, Path(profile)), f"{url}{page}", [last, *words], direction)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(_small(png, keep))
    return target


def _devtools(process: subprocess.Popen[bytes], profile: Path) -> str:
    """Address of the browser's one page for the DevTools protocol."""
    import httpx

    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
            pages = httpx.get(f"http://127.0.0.1:{port}/json/list", timeout=5.0, trust_env=False).json()
            return str(next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"))
        except (OSError, IndexError, StopIteration, ValueError, httpx.HTTPError):
            time.sleep(0.1)
    raise Unavailable(f"the browser did not start within {_READY_SECONDS:g} s (code {process.poll()}). Run it by hand to see why.")


def _capture(devtools: str, url: str, words: Sequence[str], direction: str) -> bytes:
    """Open ``url``, wait until it shows all the words and stays as it is, and take the picture."""
    from websockets.sync.client import connect

    with connect(devtools, max_size=None) as socket_:
        number = 0

        def ask(method: str, **params: Any) -> dict[str, Any]:
            nonlocal number
            number += 1
            socket_.send(json.dumps({"id": number, "method": method, "params": params}))
            while (answer := json.loads(socket_.recv(timeout=_READY_SECONDS))).get("id") != number:
                continue  # an event
            if "error" in answer:
                raise Unavailable(f"the browser refused {method}: {answer['error'].get('message')}")
            result: dict[str, Any] = answer["result"]
            return result

        ask("Page.enable")
        ask("Page.addScriptToEvaluateOnNewDocument", source=f"localStorage.setItem('asset-graph-direction', JSON.stringify({json.dumps(direction)}))")
        ask("Page.navigate", url=url)
        deadline, before, since = time.monotonic() + _READY_SECONDS, "", time.monotonic()
        while not ((lacks := [word for word in words if word not in before]) == [] and time.monotonic() - since > _STILL_SECONDS):
            if time.monotonic() > deadline:
                raise Unavailable(f"{url} does not show {lacks or 'anything that stays'} within {_READY_SECONDS:g} s; it shows: {before[:200]!r}")
            time.sleep(0.25)
            now = str(ask("Runtime.evaluate", expression="document.body ? document.body.innerText : ''")["result"].get("value", ""))
            if now != before:
                before, since = now, time.monotonic()
        return base64.b64decode(ask("Page.captureScreenshot", format="png")["data"])


@contextmanager
def webserver(settings: Settings) -> Iterator[str]:
    """A read-only Dagster webserver of the home on a free loopback port, its code location loaded; the address."""
    port = _free_port()
    words = ["-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", str(settings.folders.workspace), "--read-only"]
    _no_question(settings.folders.dagster)
    url = f"http://127.0.0.1:{port}"
    with _served(settings, words, lambda: _loaded(url), f"the Dagster webserver did not load {settings.folders.workspace}"):
        yield url


@contextmanager
def operations(settings: Settings) -> Iterator[str]:
    """The home's operations page on a free loopback port, beside a read-only Dagster webserver that it asks; the address."""
    with webserver(settings) as dagster:
        port = _free_port()
        asked = settings.model_copy(update={"ports": settings.ports.model_copy(update={"api": port, "dagster": int(dagster.rpartition(":")[2])})})
        url = f"http://127.0.0.1:{port}"
        words = ["-m", "predator_si.api", "--home", str(settings.home), "--contour", settings.contour, "--port", str(port)]
        with _served(asked, words, lambda: _answers(f"{url}/health"), "the operations page was not served"):
            yield url


@contextmanager
def _served(settings: Settings, words: Sequence[str], ready: Callable[[], bool], problem: str) -> Iterator[None]:
    """A Python process that serves something, once it is ready; it has ended afterwards."""
    environment = {**os.environ, **quiet_environment(offline=True), **settings.environment()}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=settings.home)
        try:
            deadline = time.monotonic() + _READY_SECONDS
            while not ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise Unavailable(f"{problem}: {log.read().decode(errors='replace')[-500:]}")
                time.sleep(0.3)
            yield
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url, timeout=10.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


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


def _small(png: bytes, keep: int | None) -> bytes:
    """The same picture with a palette: a third of the bytes."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    if keep is not None:
        image = image.crop((0, 0, image.width, min(keep, image.height)))
    if image.getcolors(maxcolors=16) is not None:
        raise Unavailable("the picture is empty: the page had drawn nothing yet. Try again.")
    out = io.BytesIO()
    image.quantize(colors=_COLOURS, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
    return out.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Take the picture; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m predator_si.proof.screenshot", description="A picture of a home's asset graph or operations page.")
    parser.add_argument("target", type=Path, help="PNG file to write")
    parser.add_argument("--home", type=Path, default=None, help="home folder (default: $PREDATOR_SI_HOME or ./.predator)")
    parser.add_argument("--page", default=GRAPH, help="path of the page (default: %(default)s)")
    parser.add_argument("--size", default="1800x1000", help="window in pixels (default: %(default)s)")
    parser.add_argument("--keep", type=int, default=None, help="rows of pixels from the top to keep (default: all)")
    parser.add_argument("--direction", choices=("horizontal", "vertical"), default="horizontal", help="of a graph (default: %(default)s)")
    parser.add_argument("--site", choices=("dagster", "operations"), default="dagster", help="whose page (default: %(default)s)")
    parser.add_argument("--word", action="append", default=[], dest="words", help="what the page must show besides; may be given several times")
    parser.add_argument("--last", default="rollback", help="text that the page shows once it is complete (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        width, _, height = chosen.size.partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise BadInput(f"--size {chosen.size!r}: WIDTHxHEIGHT in pixels, such as 1800x1000.")
        settings, window = load_settings(home=chosen.home), (int(width), int(height))
        target = picture(settings, chosen.target, chosen.page, window, chosen.last, chosen.direction, chosen.keep, chosen.site, chosen.words)
    except PredatorError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{target}: {target.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
