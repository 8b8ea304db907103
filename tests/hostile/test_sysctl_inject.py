# ruff: noqa: E501  (tables of words)
"""sysctl-inject (CVE-2022-0811): a setting that turns out to be another one, of the whole machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from minibox.errors import SpecError
from minibox.spec import validate

BAD = [
    "kernel.core_pattern=|/bin/sh", "kernel/core_pattern=x", "kernel.modprobe=/x", "vm.drop_caches=1", "fs.file-max=1", "kernel.panic=1",
    "kernel.shm_rmid_forced+kernel.core_pattern=1", "kernel.shm_rmid_forced=1\nkernel.core_pattern=x", "net.ipv4.ip_forward=1\n",
    "kernel.shm/../core_pattern=x", "kernel.shm..core_pattern=x", "net/../kernel/core_pattern=x", "net.//kernel.panic=1", "/kernel.panic=1",
    ".kernel.shmmax=1", "kernel.shmmax.=1", "kernel.shmmax =1", "kernel.shm*=1", "user.max_user_namespaces\0=1", "net.ipv4.ip_forward=1\0",
    "=1", "kernel.shmmax", "", "debug.exception-trace=1", "dev.tty.ldisc_autoload=1", "KERNEL.core_pattern=x",
]  # fmt: skip
#: names with the prefix of a namespace's settings that are the whole machine's all the same
NEAR = ["kernel.sem_next_id=1", "kernel.shm_next_id=1", "kernel.msg_next_id=1"]


@pytest.mark.parametrize("text", BAD)
def test_it_is_refused(attack, text):
    with pytest.raises(SpecError):
        attack("true", sysctl=[text])


def test_a_good_one_is_set_and_stays_inside(attack):
    path = Path("/proc/sys/kernel/msgmax")
    before = path.read_text()
    ended = attack("cat", str(path), sysctl=["kernel.msgmax=4321"])
    assert ended.out == "4321\n"
    assert path.read_text() == before


def test_one_of_a_namespace_that_is_shared_is_refused(attack):
    with pytest.raises(SpecError):
        attack("true", sysctl=["net.ipv4.ip_forward=1"], network="host")


@pytest.mark.root
def test_without_the_list_a_user_namespace_still_refuses_and_the_hosts_root_may(attack, monkeypatch):
    """The value written is the one that is there."""
    path = Path("/proc/sys/kernel/core_pattern")
    before = path.read_text()
    monkeypatch.setattr(validate, "_check_sysctl", lambda spec, name, value: None)
    setting = [f"kernel.core_pattern={before.strip()}"]
    assert attack("true", sysctl=setting).error.errno in (13, 30)
    assert attack("true", sysctl=setting, userns="host").code == 0
    assert path.read_text() == before
