"""The REST facade of a contour: key `api`.

What belongs here: its shape and defaults. What must not: tokens and passwords, which never stand in values.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from predator_si.contour_types import Block


class ApiProxy(Block):
    """An identity provider's proxy (OIDC) in front of the API: its word about users counts, from its own addresses only."""

    addresses: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """Networks of the proxy, like 10.1.2.0/28. It must strip the two headers from what it receives."""
    user_header: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")] = "X-Forwarded-User"
    """Header with the user's name."""
    groups_header: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")] = "X-Forwarded-Groups"
    """Header with the user's groups, separated by commas."""
    roles: dict[str, Literal["viewer", "operator", "approver", "admin"]]
    """Group -> role; the highest of a user's groups counts."""

    @field_validator("addresses")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            network = ipaddress.ip_network(one)  # ValueError says what is wrong
            if network.prefixlen == 0:
                raise ValueError(f"{one} is everybody; name the proxy's own addresses")
        return value


class Api(Block):
    """How the REST facade is reached and how much it takes."""

    proxy: ApiProxy | None = None
    dagster: str | None = None
    """Address of the Dagster webserver that may be written to; null: this machine's."""
    hosts: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names by which the API is asked, outside contour local; none: any."""
    cors_origins: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Pages of other origins that may use the API, like https://ops.example.org; none by default."""
    reads_per_second: Annotated[float, Field(gt=0)] = 1000.0
    """Of one identity; twice as many at once."""
    writes_per_minute: Annotated[float, Field(gt=0)] = 300.0
    """Of one identity, and at once."""

    @field_validator("dagster")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", value) is None:
            raise ValueError("is http(s)://host:port, without a user, a password or a query")
        return value.rstrip("/") if value else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            if re.fullmatch(r"https?://[^\s/@*]+", one) is None:
                raise ValueError(f"{one!r} is not an origin like https://ops.example.org")
        return value
