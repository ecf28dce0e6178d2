"""Addresses are judged before a model is loaded."""

from __future__ import annotations

import socket

import pytest

from bitwright.core.errors import EnvironmentFault, UsageError
from bitwright.engines.ports import base_url, exposure_warning, is_loopback, reserve_port


def test_a_busy_port_is_said_plainly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentFault) as caught:
            reserve_port("127.0.0.1", port)
    assert caught.value.message == f"port {port} on 127.0.0.1 is in use"
    assert caught.value.hint == "`--port 0` picks a free one"
    assert caught.value.exit_code == 3


def test_a_free_port_is_kept_and_zero_picks_one() -> None:
    picked = reserve_port("127.0.0.1", 0)
    assert 1024 <= picked <= 65535
    assert reserve_port("127.0.0.1", picked) == picked
    with socket.create_server(("127.0.0.1", picked)):
        pass  # it was free indeed


def test_a_port_whose_connections_are_closing_counts_as_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            accepted.close()  # the server closes first: its side waits in TIME_WAIT
    assert reserve_port("127.0.0.1", port) == port


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_out_of_range(port: int) -> None:
    with pytest.raises(UsageError, match="between 0 and 65535"):
        reserve_port("127.0.0.1", port)


@pytest.mark.parametrize("host", ["999.1.1.1", "not a host", "192.0.2.1", "a" * 70 + ".example"])
def test_hosts_that_are_not_ours(host: str) -> None:
    # 192.0.2.0/24 is kept for documentation (RFC 5737): no machine has it.
    with pytest.raises(UsageError, match="is not") as caught:
        reserve_port(host, 0)
    assert host in caught.value.message


def test_urls_reach_wildcards_over_loopback_and_bracket_ipv6() -> None:
    assert base_url("127.0.0.1", 8080) == "http://127.0.0.1:8080"
    assert base_url("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert base_url("::", 2) == "http://[::1]:2"
    assert base_url("::1", 3) == "http://[::1]:3"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_only_an_open_door_without_a_key_is_warned_of(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert (exposure_warning(host, None) is None) is loopback
    assert exposure_warning(host, "key") is None
