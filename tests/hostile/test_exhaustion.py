# ruff: noqa: E501  (tables of words)
"""pids, memory, tmpfs, fds: whatever a container takes, the host goes on."""

from __future__ import annotations

import subprocess

import pytest

from hostile.harness import changed

pytestmark = pytest.mark.root


def taken(ended):
    count, word = ended.out.split()
    return int(count), word


def host_forks():
    return subprocess.run(["true"], check=False).returncode == 0


def limit_step(attack, prefix, **how):
    """The step that writes a limit, under cgroup v1 or v2."""
    container = attack.make(["true"], **how)
    names = [
        step.id
        for step in container.prepared.plan
        if step.id.startswith("cgroup.") and step.id.endswith(prefix)
    ]
    container.discard()
    assert names, prefix
    return names


def test_processes(attack):
    count, word = taken(attack("/use", "pids", 200, pids_limit="50"))
    assert (count, word) == (49, "EAGAIN")
    assert host_forks()
    left_out = limit_step(attack, "pids.max", pids_limit="50")
    assert taken(attack("/use", "pids", 200, pids_limit="50", leave_out=left_out)) == (200, "ok")


def test_there_is_a_limit_of_processes_by_default(attack):
    assert taken(attack("/use", "pids", 4200)) == (4095, "EAGAIN")


def test_memory(attack):
    ended = attack.sh("/use memory 200; echo $?", memory="64m")
    assert ended.out.split()[-1] == "137"
    assert ended.state["oom_killed"] is True
    assert host_forks()
    swap = (
        limit_step(attack, "memory.memory.memsw.limit_in_bytes", memory="64m")
        if _has_swap_limit(attack)
        else []
    )
    left_out = [*limit_step(attack, ("memory.limit_in_bytes", "memory.max"), memory="64m"), *swap]
    ended = attack("/use", "memory", 200, memory="64m", leave_out=left_out)
    assert taken(ended) == (200, "ok")
    assert ended.state["oom_killed"] is False


def _has_swap_limit(attack):
    container = attack.make(["true"], memory="64m")
    found = any(step.id.endswith("memory.memory.memsw.limit_in_bytes") for step in container.prepared.plan)
    container.discard()
    return found


FILL = "dd if=/dev/zero of=/dev/shm/file bs=1M count=70 2>&1 | grep -o 'No space left' || echo fits"


def test_shared_memory(attack):
    assert attack.sh(FILL).out.strip() == "No space left"
    assert attack.sh(FILL, change=changed("mount.dev-shm", options=("mode=1777",))).out.strip() == "fits"


INODES = "i=0; while [ $i -lt 4300 ] && echo >/dev/$i; do i=$((i+1)); done; echo $i"


def test_inodes_of_dev(attack):
    assert int(attack.sh(INODES).out) < 4096
    assert int(attack.sh(INODES, change=changed("mount.dev", options=("mode=755",))).out) == 4300


def test_descriptors(attack):
    how = {"ulimit": ["nofile=64"]}
    count, word = taken(attack("/use", "fds", 500, **how))
    assert count < 64
    assert word == "EMFILE"
    assert taken(attack("/use", "fds", 500, leave_out=("rlimit.nofile",), **how)) == (500, "ok")


def test_no_core_files(attack):
    script = "cd /tmp; sh -c 'kill -SEGV $$' >/dev/null 2>&1; ulimit -c; ulimit -c unlimited 2>/dev/null && echo raised"
    assert attack.sh(script).out == "0\n"


#: directories so deep that no path reaches the last, and more levels than descriptors or frames of a stack
DEEP = "i=0; while [ $i -lt 1900 ]; do mkdir d && cd d || break; : >f; chmod 0 f; i=$((i+1)); done; echo $i"


@pytest.mark.parametrize("how", [{}, {"userns": "host"}])
def test_a_layer_of_deep_directories_is_removed(attack, how):
    """It once left the layer behind, and made every later start fail in its clean-up."""
    ended = attack.sh(DEEP, **how)
    assert ended.out == "1900\n"
    assert ended.state["left_behind"] == []
    assert attack("true", **how).code == 0
