# ruff: noqa: E501  (tables of words)
"""abstract-socket (CVE-2020-15257): abstract unix sockets belong to the network namespace, not to a directory."""

from __future__ import annotations

import os
import socket

import pytest


@pytest.fixture
def decoy():
    name = f"minibox-decoy-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"\0" + name.encode())
        listener.listen()
        yield name


@pytest.mark.parametrize("how", [{}, pytest.param({"userns": "host"}, marks=pytest.mark.root)])
def test_the_hosts_sockets_are_out_of_reach(attack, decoy, how):
    ended = attack("/abstract", decoy, **how)
    assert ended.out == "ECONNREFUSED\n", (ended.error, ended.err)


def test_in_the_hosts_network_namespace_they_are_not(attack, decoy):
    assert attack("/abstract", decoy, network="host").out == "ok\n"
