"""--show-denials names what the filter refused, and changes nothing else."""

from __future__ import annotations

import errno

import pytest

from minibox.seccomp import decode, denials
from seccomp.programs import profile, written

GETPPID = 110


def test_a_denied_call_is_named_with_its_arguments_its_process_and_the_reason(minibox, rootfs):
    done = minibox("run", "--show-denials", rootfs, "sh", "-c", "mount -t proc none /mnt; true")
    line, why = [line for line in done.stderr.decode().splitlines() if line.startswith("minibox:")]
    assert line.startswith('minibox: denied: mount("none", "/mnt", "proc", ')
    assert " = EPERM  by mount, pid 2 (outside: " in line
    assert "CAP_SYS_ADMIN" in why


def test_the_program_sees_what_it_would_have_seen(minibox, caller, tmp_path):
    document = profile("SCMP_ACT_ERRNO", "getppid", errnoRet=5)
    document["syscalls"] += [
        {"names": ["acct"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["swapoff"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0},
        {"names": ["getpid"], "action": "SCMP_ACT_TRACE"},
        {"names": ["gettid"], "action": "SCMP_ACT_LOG"},
    ]
    words = (
        "--seccomp",
        written(tmp_path, document),
        caller,
        "/caller",
        GETPPID,
        "163",
        "168",
        "39",
        "186",
        "102",
    )
    plain, shown = minibox("run", *words), minibox("run", "--show-denials", *words)
    assert shown.stdout == plain.stdout == b"-1 5\n-1 38\n0 0\n-1 38\n1 0\n0 0\n"
    assert (shown.returncode, plain.returncode) == (0, 0)
    denied = [
        line.split()[2].split("(")[0] for line in shown.stderr.decode().splitlines() if " denied: " in line
    ]
    assert denied == ["getppid", "swapoff"]


def test_all_tells_enosys_too(minibox, caller):
    done = minibox("run", "--show-denials=all", caller, "/caller", "435,0,0", "1000")
    assert done.stdout == b"-1 38\n-1 38\n"
    assert b"clone3(0x0, 0x0) = ENOSYS" in done.stderr
    assert b"#1000(" in done.stderr


def test_repeated_denials_are_counted(minibox, rootfs):
    script = "for i in 1 2 3 4 5; do hostname x 2>/dev/null; done"
    done = minibox("run", "--show-denials", rootfs, "sh", "-c", script)
    text = done.stderr.decode()
    assert text.count("denied: sethostname") == 1
    assert 'denied 5 times: sethostname("x", 0x1)  by hostname' in text


def test_a_denied_execve_is_told(minibox, rootfs, tmp_path):
    path = written(tmp_path, profile("SCMP_ACT_ERRNO", "execve", "execveat", errnoRet=13))
    done = minibox("run", "--show-denials", "--seccomp", path, rootfs, "true")
    assert done.returncode == 126
    assert b"denied: execve" in done.stderr


@pytest.mark.parametrize("flag", [[], ["--init"], ["--allow-new-privs"]])
def test_with_other_ways_to_start(minibox, rootfs, flag):
    done = minibox("run", *flag, "--show-denials", rootfs, "hostname", "x")
    assert b"denied: sethostname" in done.stderr


def test_a_detached_container_has_them_in_its_log(minibox, rootfs):
    minibox("run", "-d", "--name", "one", "--show-denials", rootfs, "hostname", "x")
    minibox("wait", "one")
    assert b"denied: sethostname" in minibox("logs", "one").stderr


def test_exec_tells_its_own(minibox, rootfs):
    minibox("run", "-d", "--name", "one", rootfs, "sleep", "60")
    done = minibox("exec", "--show-denials", "one", "hostname", "x")
    assert b"denied: sethostname" in done.stderr
    assert b"denied" not in minibox("exec", "one", "hostname", "x").stderr


def test_they_go_together_with_a_handler(minibox, caller, tmp_path):
    handler = tmp_path / "handler.py"
    handler.write_text(
        "from minibox.seccomp import Response\nSYSCALLS = ['getppid']\n"
        "def handle(request): return Response(value=7)\n"
    )
    words = (caller, "sh", "-c", "/caller 110; hostname x")
    done = minibox("run", "--show-denials", "--seccomp-notify", handler, *words)
    assert done.stdout == b"7 0\n"
    assert b"denied: sethostname" in done.stderr
    assert b"denied: getppid" not in done.stderr


def test_the_agent_of_a_profile_takes_the_listener(minibox, rootfs, tmp_path):
    document = profile("SCMP_ACT_NOTIFY", "getppid", listenerPath="/run/agent")
    done = minibox("run", "--show-denials", "--seccomp", written(tmp_path, document), rootfs, "true")
    assert done.returncode == 125
    assert b"--show-denials" in done.stderr


def test_text_of_the_container_cannot_play_with_the_terminal(minibox, rootfs):
    script = "mount -t proc none \"$(printf '/\\033[31m\\n')\" 2>/dev/null"
    done = minibox("run", "--show-denials", rootfs, "sh", "-c", script)
    assert b"\\x1b[31m" in done.stderr
    assert b"\x1b" not in done.stderr


def test_the_library_returns_them(library, rootfs):
    result = library.run(rootfs, ["sh", "-c", "hostname x; hostname x"], show_denials=True)
    (denial,) = result.denials
    assert (denial.syscall, denial.errno, denial.comm, denial.count) == (
        "sethostname",
        errno.EPERM,
        "hostname",
        2,
    )
    assert denial.call == 'sethostname("x", 0x1)'
    assert denial.outside > denial.pid > 1
    assert library.run(rootfs, ["true"]).denials == ()
    with library.Sandbox(rootfs, show_denials=True) as box:
        assert [one.syscall for one in box.exec(["hostname", "x"]).denials] == ["sethostname"]


def test_the_variant_notifies_of_errnos_and_of_nothing_else():
    results = [
        decode.SECCOMP_RET_ALLOW,
        decode.SECCOMP_RET_ERRNO | 1,
        decode.SECCOMP_RET_ERRNO | 38,
        decode.SECCOMP_RET_KILL_PROCESS,
        decode.SECCOMP_RET_TRACE | 7,
    ]
    program = [decode.Instruction(0x20, 0, 0, 0)]
    for number, result in enumerate(results):
        program += [decode.Instruction(0x15, 0, 1, number), decode.Instruction(0x06, 0, 0, result)]
    program.append(decode.Instruction(0x06, 0, 0, decode.SECCOMP_RET_ERRNO | 2))
    bpf = decode.pack(program)
    for everything in (False, True):
        changed = denials.variant(bpf, everything=everything)
        for number in range(7):
            before = decode.evaluate(bpf, 0, number)
            after = decode.evaluate(changed, 0, number)
            told = before[0] == decode.SECCOMP_RET_ERRNO and (everything or before[1] != 38)
            assert after == ((decode.SECCOMP_RET_USER_NOTIF, 0) if told else before)
