"""Filters for an ordinary user: denials are told, calls are answered, all without rights."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.rootless

HANDLER = """
from minibox.seccomp import Response
SYSCALLS = ["mkdir", "sendmsg"]
def handle(request):
    print(request.name, request.read_string(request.args[0]), flush=True)
    return Response(errno=28)
"""


def test_denials_are_told(minibox, rootfs):
    done = minibox("run", "--show-denials", rootfs, "hostname", "x")
    assert b'denied: sethostname("x", 0x1) = EPERM  by hostname, pid 1 ' in done.stderr


def test_a_handler_answers_and_reads_memory(minibox, rootfs, tmp_path):
    path = tmp_path / "handler.py"
    path.write_text(HANDLER)
    done = minibox("run", "--seccomp-notify", path, rootfs, "mkdir", "/tmp/made", timeout=20)
    assert done.stdout == b"mkdir /tmp/made\n"
    assert b"No space left" in done.stderr


def test_exec_tells_denials(minibox, rootfs):
    minibox("run", "-d", "--name", "one", rootfs, "sleep", "60")
    assert b"denied: sethostname" in minibox("exec", "--show-denials", "one", "hostname", "x").stderr


def test_the_filter_of_a_container_is_explained_by_its_spec(minibox, rootfs):
    minibox("run", "-d", "--name", "one", rootfs, "sleep", "60")
    done = minibox("seccomp", "explain", "one", "mount")
    assert b"from its Spec, since the live one cannot be read" in done.stdout
    assert b"ERRNO EPERM" in done.stdout
