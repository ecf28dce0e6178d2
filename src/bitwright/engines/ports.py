"""Addresses: is the host ours, is the port free, who can reach it.

Asked before an engine starts, because a model that took a minute to load should not then find its port taken, and
because llama.cpp answers every such case with the same `Failed to init server`.

Between our question and the engine's own bind another program may take the port; the engine's log tells that case.
"""

from __future__ import annotations

import errno
import ipaddress
import socket

from bitwright.core.errors import EnvironmentFault, UsageError

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def reserve_port(host: str, port: int) -> int:
    """The port to serve on: `port` if it is free, a free one if `port` is 0.

    Raises `UsageError` for a host that is not an address of this machine or a port out of range, and
    `EnvironmentFault` for a port that is in use or not allowed.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port} is not between 0 and 65535", hint="`--port 0` picks a free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"host `{host}` is not a known address", hint="use `--host 127.0.0.1`") from error
    with socket.socket(family, kind, protocol) as probe:
        # As the engines do: a port whose last connections are still closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise _bind_error(error, host, port) from error
        return int(probe.getsockname()[1])


def _bind_error(error: OSError, host: str, port: int) -> UsageError | EnvironmentFault:
    match error.errno:
        case errno.EADDRINUSE:
            return port_in_use(host, port)
        case errno.EACCES:
            return EnvironmentFault(f"port {port} on {host} is reserved for root", hint="use a port above 1023")
        case _:
            return UsageError(f"host `{host}` is not an address of this machine", hint="use `--host 127.0.0.1`")


def port_in_use(host: str, port: int) -> EnvironmentFault:
    """The error for a port that another program holds."""
    return EnvironmentFault(f"port {port} on {host} is in use", hint="`--port 0` picks a free one")


def base_url(host: str, port: int) -> str:
    """Where a client on this machine reaches the server: a wildcard host is reached over loopback."""
    name = WILDCARDS.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def is_loopback(host: str) -> bool:
    """True if only programs on this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def exposure_warning(host: str, api_key: str | None) -> str | None:
    """One line if the server answers the network without asking for a key, else `None`."""
    if api_key is not None or is_loopback(host):
        return None
    return f"serving on {host} without an API key: everyone who can reach this machine can use the model"
