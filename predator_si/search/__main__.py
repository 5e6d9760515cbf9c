"""Run the search service: ``python -m predator_si.search --home DIR --contour local --port 8080``.

What belongs here: the command line, the socket, signals. What must not: anything a test of the application would want to reach.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from predator_si.errors import Missing, PredatorError, Unavailable
from predator_si.privacy import trace


class _WithoutMessages(logging.Formatter):
    """Writes exceptions, also those that the server or a library logs, without their messages: they may quote a query."""

    def formatException(self, ei: Any) -> str:
        return trace(ei[1])


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal comes; returns the exit code: 0 after a clean end, 2 when the service cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m predator_si.search",
        description="The search service of a home folder.",
        epilog="example: python -m predator_si.search --home .predator --contour local --port 8080",
    )
    parser.add_argument("--home", type=Path, required=True, help="home folder with service/index, models and applied/release-<contour>.yaml")
    parser.add_argument("--contour", default="local", help="whose release file is followed (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on, 0 for any free one (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="threads of the reranker's backend (default: the backend's own choice)")
    parser.add_argument("--score-cache", type=int, default=0, help="scores of pairs kept in memory; 0, the default, keeps none, so that latencies compare")
    parser.add_argument("--reader", action="store_true", help="answer only: another process owns this home, takes documents and publishes the index")
    parser.add_argument(
        "--embedder",
        type=Path,
        default=None,
        help="folder of the bi-encoder (default: <home>/embedder, else the one of the name in the index, under $PREDATOR_SI_CACHE/models)",
    )
    chosen = parser.parse_args(arguments)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithoutMessages("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)  # `predator-si search serve` was hushed
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if chosen.threads is not None and chosen.threads < 1:
        parser.error("--threads must be 1 or more")
    if chosen.score_cache < 0:
        parser.error("--score-cache must be 0 or more")
    if chosen.threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(chosen.threads))
    try:
        return _serve(chosen)
    except PredatorError as error:
        sys.stderr.write(f"search service: {error}\n")
        return 2


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on host and port.

    Raises
    ------
    Unavailable
        The port is taken or may not be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(2048)
    except (OSError, OverflowError) as error:
        found.close()
        raise Unavailable(f"port {port} on {host} cannot be used ({error}). Stop what uses it, or choose another with --port.") from error
    return found


def find_embedder(home: Path) -> Path:
    """The bi-encoder's folder: ``<home>/embedder``, or the one whose name stands in the current index, in the shared cache.

    Raises
    ------
    Missing
        It is in neither place.
    """
    from predator_si.search.index_versions import IndexVersions

    own = home / "embedder"
    if own.is_dir():
        return own
    versions = IndexVersions(home / "service" / "index")
    meta = versions.folder(versions.current()) / "index.json"
    try:
        name = str(json.loads(meta.read_text())["embedder"]).split("@")[0]
    except (OSError, ValueError, KeyError) as error:
        raise Missing(f"{meta}: the embedder's name cannot be read ({error}). Name its folder with --embedder, or build the index again.") from error
    cache = Path(os.environ.get("PREDATOR_SI_CACHE") or Path.home() / ".cache" / "predator-si")
    folder = cache / "models" / name
    if not folder.is_dir():
        raise Missing(f"{folder}: the index' bi-encoder is not there. Run `predator-si models fetch`, or name its folder with --embedder.")
    return folder


def _serve(chosen: argparse.Namespace) -> int:
    # Before anything is loaded, so that a busy port is said at once; listening only once everything stands, so that nobody waits at a closed counter.
    listening_socket(chosen.host, chosen.port).close()
    import uvicorn

    from predator_si.search.app import create_app

    embedder = chosen.embedder or find_embedder(chosen.home)
    cache = chosen.score_cache
    app = create_app(chosen.home, contour=chosen.contour, embedder=embedder, threads=chosen.threads, score_cache=cache, reader=chosen.reader)
    with listening_socket(chosen.host, chosen.port) as listening:
        host, port = listening.getsockname()[:2]

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                if self.started:
                    sys.stdout.write(f"search service: http://{host}:{port} serves {app.state.service.follower.current.champion.digest}\n")
                    sys.stdout.flush()

        server = Server(uvicorn.Config(app, access_log=False, log_config=None, timeout_graceful_shutdown=30))
        # uvicorn ends cleanly on these and then raises them again; by then there is nothing left to do.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listening])
    return 0


if __name__ == "__main__":
    sys.exit(main())
