"""tty-inject (CVE-2017-5226, CVE-2019-10063): input put into the caller's terminal runs as the caller."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hostile.harness import script, stores

#: a session with a terminal of its own, handed to the container as it is (as with --no-tty)
CALLER = """
import json, os, select, termios, tty
from hostile.harness import Attack
from minibox.store.state import Store
from pathlib import Path
master, slave = os.openpty()
os.setsid()
import fcntl
fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
tty.setraw(slave)
left_out = json.loads(sys.argv[2])
ended = Attack(Store(), Path(sys.argv[1]))("/inject", sys.argv[3], leave_out=left_out, stdin=slave)
typed = os.read(slave, 10).decode() if select.select([slave], [], [], 0.2)[0] else ""
print(json.dumps([ended.out.strip(), typed]))
"""
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
FILTER, SESSION = "seccomp.load", "process.session"


def inject(attack, request, *left_out):
    done = script(CALLER, attack.rootfs, json.dumps(left_out), request, env=stores(attack.store))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("request_number", [TIOCSTI, 1 << 32 | TIOCSTI, TIOCLINUX, 1 << 32 | TIOCLINUX])
def test_nothing_is_typed(attack, request_number):
    assert inject(attack, request_number) == ["EPERM", ""]


@pytest.mark.parametrize("left_out", [FILTER, SESSION])
@pytest.mark.parametrize("request_number", [TIOCSTI, 1 << 32 | TIOCSTI])
def test_one_of_the_two_defences_is_enough(attack, request_number, left_out):
    assert inject(attack, request_number, left_out)[1] == ""


@pytest.mark.parametrize("request_number", [TIOCSTI, 1 << 32 | TIOCSTI])
def test_without_both_the_container_types(attack, request_number):
    """Where the kernel itself refuses (dev.tty.legacy_tiocsti = 0, Linux 6.2) that is one defence more."""
    legacy = Path("/proc/sys/dev/tty/legacy_tiocsti")
    expected = ["ok", "X"] if not legacy.exists() or legacy.read_text().strip() == "1" else ["EIO", ""]
    assert inject(attack, request_number, FILTER, SESSION) == expected
