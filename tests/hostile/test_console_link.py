"""console-link (CVE-2025-52565): /dev/console or /dev/pts/N of the image is a link to somewhere else."""

from __future__ import annotations

import os
import shutil

import pytest

from hostile.harness import facts_of
from minibox.kernel import calls
from minibox.kernel import consts as c
from minibox.plan import ops

pytestmark = pytest.mark.root
TERMINAL = (0, 1, 2)


def run(attack, rootfs, *argv, **how):
    """A payload with a terminal of its own; what appears on it, and the step that failed."""
    container = attack.make(argv, rootfs=rootfs, terminal=TERMINAL, **how)
    try:
        container.start()
    except ops.StepError as error:
        return "", error.step
    screen: list[bytes] = []
    attendant = container.attendant(timeout=20)
    attendant.read(container.ctx.fds.pop("terminal"), screen.append)
    container.finish(attendant.run())
    return b"".join(screen).decode(), ""


@pytest.mark.parametrize("how", [{}, {"userns": "host"}])
def test_links_of_the_image_are_not_followed(attack, own_root, tripwire, how):
    for name in ("console", "ptmx", "tty"):
        (own_root / "dev" / name).symlink_to(tripwire / "file")
    (own_root / "dev" / "pts").symlink_to(tripwire)
    before = facts_of(tripwire)
    screen, step = run(
        attack, own_root, "sh", "-c", "tty; echo written >/dev/console; ls -l /dev/console | cut -c1", **how
    )
    assert step == ""
    assert screen.split() == ["/dev/pts/0", "written", "c"]
    assert facts_of(tripwire) == before


def test_followed_the_console_would_be_made_on_the_host(attack, own_root, tripwire, monkeypatch):
    """/dev of the image in place of a fresh one, and a file made there without O_EXCL and O_NOFOLLOW."""
    (own_root / "dev" / "console").symlink_to(tripwire / "console")
    make = ops._make_file

    def follow(directory, name):
        if name != "console":
            return make(directory, name)
        return calls.openat(directory, name, os.O_CREAT | os.O_WRONLY, 0o666)

    def keep(self, ctx):
        if self.destination != "/dev":
            real(self, ctx)
            return
        ctx.fds["/dev"] = calls.openat(ctx.fd("root"), "dev", os.O_RDONLY)

    real = ops.MountFs.perform
    monkeypatch.setattr(ops.MountFs, "perform", keep)
    monkeypatch.setattr(ops, "_make_file", follow)
    shutil.rmtree(own_root / "dev" / "pts", ignore_errors=True)
    run(attack, own_root, "true")
    assert (tripwire / "console").exists()
    monkeypatch.setattr(ops, "_make_file", make)
    (tripwire / "console").unlink()
    assert run(attack, own_root, "true")[1] == "terminal.open"
    assert not (tripwire / "console").exists()


#: a container with CAP_SYS_ADMIN takes its /dev/pts away, and puts another thing there
STRONG = {"cap_add": ["SYS_ADMIN"], "seccomp": "unconfined"}
FAKES = {
    "link": "umount /dev/pts && rmdir /dev/pts && mkdir /fake && ln -s /fake /dev/pts && echo >/fake/ptmx",
    "directory": "umount /dev/pts && echo >/dev/pts/ptmx",
    "tmpfs": "umount /dev/pts && mount -t tmpfs x /dev/pts && echo >/dev/pts/ptmx",
    "entry": "umount /dev/pts && ln -s /dev/null /dev/pts/ptmx",
}


@pytest.mark.parametrize("kind", FAKES)
def test_exec_with_a_terminal_checks_what_it_opens(attack, kind):
    script = f"{FAKES[kind]} && echo up; exec sleep 30"
    with attack.running("sh", "-c", script, **STRONG) as container:
        assert container.first_line == "up\n"
        ended = attack.exec(container.state["id"], "true", terminal=TERMINAL)
        assert ended.step in ("terminal.devpts", "terminal.open")
        assert ended.error.errno in (20, 22, 40)


def test_exec_without_the_checks_opens_the_containers_file(attack, monkeypatch):
    """A descriptor of the container's choice becomes what the caller takes for the terminal's master."""
    opened = []

    def devpts(self, ctx):
        ctx.fds["/dev/pts"] = calls.openat(ctx.fd("root"), "dev/pts", c.O_PATH)

    def terminal(self, ctx):
        ctx.send({"fd": "decoy"}, calls.openat(ctx.fd("/dev/pts"), "ptmx", os.O_RDWR))
        raise ops.KernelError(25, "ioctl")

    def message(self, message, fd):
        if message.get("fd") == "decoy":
            opened.append(os.read(fd, 10))
            os.close(fd)
        else:
            real(self, message, fd)

    from minibox.runtime.supervisor import Supervisor

    real = Supervisor._message
    monkeypatch.setattr(Supervisor, "_message", message)
    monkeypatch.setattr(ops.OpenDevpts, "perform", devpts)
    monkeypatch.setattr(ops.OpenTerminal, "perform", terminal)
    script = FAKES["link"].replace("echo >", "echo decoy >") + " && echo up; exec sleep 30"
    with attack.running("sh", "-c", script, **STRONG) as container:
        attack.exec(container.state["id"], "true", terminal=TERMINAL)
    assert opened == [b"decoy\n"]
