"""proc-write-redirect (CVE-2025-52881): a write of the runtime's to procfs that lands in another file."""

from __future__ import annotations

import os

import pytest

from minibox.errors import KernelError
from minibox.kernel import calls, inroot
from minibox.kernel import consts as c
from minibox.plan import ops

SETTING = "user/max_user_namespaces"


@pytest.fixture
def covered(monkeypatch):
    """While a container starts, in its mount namespace, a decoy lies over the file that is to be written:
    over /proc as everybody sees it, or over the runtime's own procfs.  (What the decoy holds afterwards.)"""
    reading, writing = os.pipe()
    real = ops.SetSysctl.perform

    def cover(where, perform=real):
        def covering(self, ctx):
            mount = ops._new_mount("tmpfs", (), 0)
            os.close(calls.openat(mount, "decoy", os.O_CREAT | os.O_WRONLY, 0o666))
            decoy = calls.open_tree(mount, "decoy", c.OPEN_TREE_CLONE)
            target = f"/proc/sys/{SETTING}"
            if where == "proc":
                calls.move_mount(decoy, calls.openat(c.AT_FDCWD, target, c.O_PATH))
            else:
                calls.move_mount(decoy, inroot.below(ctx.fd("proc"), f"sys/{SETTING}", c.O_PATH))
            try:
                return perform(self, ctx)
            finally:
                fd = calls.openat(mount, "decoy", os.O_RDONLY)
                os.write(writing, b"decoy:" + os.read(fd, 10) + b"\n")

        monkeypatch.setattr(ops.SetSysctl, "perform", covering)

    def held():
        os.set_blocking(reading, False)
        return os.read(reading, 100).decode()

    yield cover, held
    os.close(reading)
    os.close(writing)


def test_a_mount_over_proc_is_never_looked_at(attack, covered):
    cover, held = covered
    cover("proc")
    ended = attack("cat", f"/proc/sys/{SETTING}")
    assert ended.out == "0\n"
    assert held() == "decoy:\n"


def test_a_mount_over_the_runtimes_own_procfs_is_an_error(attack, covered):
    """Where the kernel lets a mount be put on a file system that is attached nowhere (Linux 6.15)."""
    cover, held = covered
    cover("own")
    ended = attack("cat", f"/proc/sys/{SETTING}")
    assert ended.step == f"sysctl.{SETTING.replace('/', '.')}"
    assert ended.error.errno in (18, 22)  # EXDEV of the lookup, or EINVAL of the attempt to cover
    if ended.error.errno == 18:
        assert held() == "decoy:\n"


def test_written_by_its_path_the_decoy_has_it(attack, covered):
    def by_path(self, ctx):
        fd = calls.openat(c.AT_FDCWD, f"/proc/sys/{self.name}", os.O_WRONLY)
        os.write(fd, self.value.encode())
        os.close(fd)

    cover, held = covered
    cover("proc", by_path)
    ended = attack("cat", f"/proc/sys/{SETTING}")
    assert ended.out != "0\n"
    assert held() == "decoy:0\n"


@pytest.mark.parametrize(
    "path", ["self/status", "sys/../kcore", "../etc/passwd", "self/cwd", "/proc/version", "mounts"]
)
def test_no_link_and_no_way_up(path):
    proc = os.open("/proc", os.O_PATH)
    try:
        with pytest.raises(KernelError):
            inroot.below(proc, path, os.O_RDONLY)
    finally:
        os.close(proc)
