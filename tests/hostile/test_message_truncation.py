# ruff: noqa: E501  (tables of words)
"""message-truncation (CVE-2021-43784): a value that is cut short on its way turns into another one."""

from __future__ import annotations

import contextlib
import os
import random
import socket

import pytest

from minibox import fastjson
from minibox.errors import KernelError, MiniboxError
from minibox.kernel import calls
from minibox.plan.context import Context

NUL = "a\0b"


@pytest.mark.parametrize(
    "how",
    [
        {"argv": [NUL]}, {"argv": ["true", NUL]}, {"env": [f"A={NUL}"]}, {"workdir": f"/{NUL}"}, {"user": NUL}, {"group_add": [NUL]},
        {"hostname": NUL}, {"domainname": NUL}, {"volume": [f"/etc:/{NUL}"]}, {"volume": [f"/etc/{NUL}:/x"]}, {"tmpfs": [f"/{NUL}"]},
        {"sysctl": [f"net.ipv4.ip_forward=1{NUL}"]}, {"network": f"ns:/{NUL}"}, {"userns": f"ns:/{NUL}"}, {"tmpfs": [f"/x:mode={NUL}"]},
    ],
    ids=repr,
)  # fmt: skip
def test_a_nul_is_refused_everywhere(attack, how):
    argv = how.pop("argv", ["true"])
    with contextlib.suppress(MiniboxError, ValueError):
        ended = attack(*argv, **how)
        assert ended.code == 125, ended.out


def test_every_wrapper_refuses_a_nul():
    for function, operands in (
        (calls.openat, (-100, NUL, 0)), (calls.openat2, (-100, NUL, 0, 0)), (calls.mkdirat, (-100, NUL, 0)),
        (calls.open_tree, (-100, NUL, 0)), (calls.fsopen, (NUL,)), (calls.sethostname, (NUL,)), (calls.setdomainname, (NUL,)),
        (calls.symlinkat, (NUL, -100, "x")), (calls.umount2, (NUL, 0)), (calls.pivot_root, (NUL, ".")), (calls.strings, ((NUL,),)),
    ):  # fmt: skip
        with pytest.raises(KernelError) as caught:
            function(*operands)
        assert caught.value.errno == 22


@pytest.fixture
def channel():
    ours, theirs = calls.socketpair()
    ctx = Context()
    ctx.channel = theirs
    yield ours, ctx
    os.close(ours)
    os.close(theirs)


#: what would be a command to go on, were the rest of it lost
LONG = fastjson.dumps({"sync": "start", "ids": [0, 0]}).encode()


def test_a_message_that_does_not_fit_is_an_error(channel, monkeypatch):
    ours, ctx = channel
    limit = 1 << 16
    os.write(ours, LONG + b" " * limit + b"and not at all")
    with pytest.raises(KernelError) as caught:
        ctx.wait_for("start")
    assert caught.value.errno == 90  # EMSGSIZE

    def cut(fd, _limit=0):
        with socket.socket(fileno=os.dup(fd)) as peer:
            return peer.recv(limit), -1

    monkeypatch.setattr(calls, "recv", cut)
    os.write(ours, LONG + b" " * limit + b"and not at all")
    ctx.wait_for("start")  # without the check the rest is not missed


def test_a_fuzzed_message_lets_nobody_go_on(channel):
    """Cut, with bits flipped, with other types: either an error, or the message is not the one waited for."""
    ours, ctx = channel
    draw = random.Random(20260731)
    good = bytearray(LONG)
    for turn in range(3000):
        data = bytearray(good)
        kind = turn % 4
        if kind == 0:
            data = data[: draw.randrange(len(data))]
        elif kind == 1:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        elif kind == 2:
            data = bytearray(draw.randbytes(draw.randrange(1, 64)))
        else:
            data = bytearray(
                fastjson.dumps(
                    draw.choice([[], {}, None, 1, "start", {"sync": ["start"]}, {"sync": None}])
                ).encode()
            )
        if b'"sync": "start"' in data or not data:
            continue
        os.write(ours, bytes(data))
        os.write(ours, END)
        ctx.on_message = _end_of_turn
        try:
            ctx.wait_for("start")
            pytest.fail(f"went on by {bytes(data)!r}")
        except EndOfTurn:
            continue
        except Exception:  # an error, which ends the process: what came behind it is for nobody
            calls.recv(ctx.channel)
        assert ctx.user.uid == 0


END = fastjson.dumps({"end-of-turn": 1}).encode()


class EndOfTurn(BaseException):
    pass


def _end_of_turn(message, fd):
    if isinstance(message, dict) and "end-of-turn" in message:
        raise EndOfTurn
