"""Serve the REST facade: ``python -m predator_si.api --home DIR --contour local --port 8000``.

What belongs here: the command line, the address, the log. What must not: anything a test of the application would want to reach.
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import sys
from pathlib import Path

from predator_si.errors import BadInput, PredatorError


def main(words: list[str] | None = None) -> int:
    """Serve until a signal comes; the exit code: 0 after a clean end, 2 where it cannot be served so."""
    parser = argparse.ArgumentParser(
        prog="python -m predator_si.api",
        description="The REST facade of one home.",
        epilog="example: python -m predator_si.api --home .predator --port 8000",
    )
    parser.add_argument("--home", type=Path, default=None, help="home folder (default: $PREDATOR_SI_HOME or ./.predator)")
    parser.add_argument("--contour", default=None, help="(default: $PREDATOR_SI_CONTOUR or local)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; contour local takes a loopback one only (default: %(default)s)")
    parser.add_argument("--port", type=int, default=None, help="port (default: the contour's)")
    chosen = parser.parse_args(words)
    from predator_si.settings import load_settings

    try:
        settings = load_settings(chosen.contour, chosen.home)
        require_safe_address(settings.contour, chosen.host)
        settings.folders.ensure()
        from predator_si.api.app import create_app

        app = create_app(settings)
    except PredatorError as error:
        sys.stderr.write(f"api: {error}\n")
        return 2
    import uvicorn

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    port = settings.ports.api if chosen.port is None else chosen.port
    uvicorn.run(
        app,
        host=chosen.host,
        port=port,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the address of the connection counts, not what a header says
        server_header=False,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=16_384,
        limit_concurrency=1000,
        timeout_graceful_shutdown=10,
    )
    return 0


def require_safe_address(contour: str, host: str) -> None:
    """Refuse an address that would open contour local's door to others.

    Raises
    ------
    BadInput
        It is no address, or contour ``local`` would listen to other machines.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise BadInput(f"--host {host!r} is not an address. Give one like 127.0.0.1 or 0.0.0.0.") from error
    if contour == "local" and not address.is_loopback:
        raise BadInput(f"--host {host}: contour local lets callers in without a token, so it listens on loopback only. Use 127.0.0.1, or another contour.")


if __name__ == "__main__":
    sys.exit(main())
