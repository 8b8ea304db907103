"""The host that the tests run on: what is known of it, and that looking changes nothing."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import time

import pytest

from minibox.doctor import report
from minibox.doctor.case import Case
from minibox.store.state import Store


def test_run_works_where_these_tests_run(doctor):
    found = doctor()
    assert found.data["works"], found.with_status("missing", "unknown")
    assert found.exit_code == 0
    assert found.status("run.default") == "ok"
    assert found.status("userns.create") == "ok"


def test_every_check_has_an_answer(doctor, rootfs):
    found = doctor(rootfs)
    assert found.with_status("unknown") == []


def test_whatever_is_not_ok_says_what_follows_and_what_mends_it(doctor, rootfs):
    found = doctor(rootfs)
    for one in found.data["checks"]:
        if one["status"] in ("limited", "missing"):
            assert one["consequence"], one
            assert one["mend"], one


def test_the_json_is_stable(doctor, rootfs):
    found = doctor(rootfs).data
    assert list(found) == ["version", "works", "user", "rootfs", "counts", "checks"]
    assert found["version"] == 1
    assert found["rootfs"] == str(rootfs)
    assert sum(found["counts"].values()) == len(found["checks"])
    for one in found["checks"]:
        assert list(one) == ["id", "status", "fact", "consequence", "mend", "needed"]
        assert one["status"] in report.STATUSES
    ids = [one["id"] for one in found["checks"]]
    assert len(ids) == len(set(ids))


def test_the_text_has_a_line_for_each_check_and_a_summary(doctor):
    done = doctor.run("exec $DOCTOR_TEXT")
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0
    assert lines[-1].startswith("minibox run works here, with defaults, for ")
    for check in doctor().checks:
        assert any(f" {check} " in line for line in lines), check


def test_it_takes_less_than_a_second(doctor, rootfs):
    taken = []
    for _ in range(3):
        began = time.monotonic()
        doctor(rootfs)
        taken.append(time.monotonic() - began)
    assert min(taken) < 1


def test_it_leaves_nothing(doctor, rootfs, store_dirs):
    before = sorted(os.listdir(store_dirs[0].parent))
    doctor(rootfs)
    assert sorted(os.listdir(store_dirs[0].parent)) == before
    assert glob.glob("/sys/fs/cgroup/**/minibox-doctor-*", recursive=True) == []


def test_nothing_of_it_is_loaded_by_run():
    script = "import sys; from minibox.cli import main, run, execute; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-Ic", script], stdout=subprocess.PIPE, check=True
    ).stdout.split()
    assert [name for name in loaded if b"doctor" in name or name == b"minibox.kernel.ask"] == []


def test_a_check_that_raises_is_a_line_and_not_a_traceback():
    def broken(_case):
        raise ZeroDivisionError("on purpose")

    found = report.examine(
        Case(Store()), (report.Check("a.b", broken), report.Check("c.d", broken, needed=True))
    )
    assert [one.status for one in found.findings] == ["unknown", "unknown"]
    assert "ZeroDivisionError: on purpose" in found.findings[0].fact
    assert not found.works
    assert "c.d" in found.summary()
    json.dumps(found.to_json())


def test_a_wrong_command_line_is_refused(doctor):
    done = doctor.run("exec $DOCTOR a b")
    assert done.returncode == 125
    assert b"minibox doctor [--json] [ROOTFS]" in done.stderr


def test_what_the_kernel_says_of_itself_agrees(doctor):
    found = doctor()
    actions = "/proc/sys/kernel/seccomp/actions_avail"
    with open(actions) as file:
        assert set(str(found["seccomp.actions"]["fact"]).split()) == set(file.read().split())
    with open("/proc/sys/user/max_user_namespaces") as file:
        assert file.read().strip() in str(found["userns.max"]["fact"])


@pytest.mark.root
def test_root_needs_no_ranges_and_has_every_controller(doctor):
    found = doctor()
    for check in ("ids.subuid", "ids.subgid", "ids.newuidmap", "ids.newgidmap"):
        assert found.status(check) == "not needed"
    for check in ("ids.pool", "cgroup.memory", "cgroup.pids", "cgroup.cpu", "mount.overlay"):
        assert found.status(check) == "ok", found[check]


@pytest.mark.root
def test_a_capability_that_root_lacks_is_named(doctor):
    found = doctor.after("exec $DOCTOR", ("setpriv", "--bounding-set=-sys_time,-mknod", "--"))
    assert found.status("privs.bounding") == "limited"
    assert "CAP_SYS_TIME" in str(found["privs.bounding"]["fact"])
    assert "no CAP_MKNOD" in str(found["privs.bounding"]["consequence"])
