"""What cannot work gives one clear error, the right exit code, and leaves nothing behind.

An error reads `minibox: --flag: message` when a value is at fault, else
`minibox: step N/M ID failed: CALL(...) = ERRNO` with lines `why:` and `try:`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Minibox
from test_residue import leftovers, no_orphans, processes

from minibox.cgroup import detect

STEP = re.compile(
    r"minibox: step (?P<index>\d+)/(?P<total>\d+) (?P<id>[\w.+-]+) failed: "
    r"(?P<call>.*?)( = (?P<errno>E\w+))?\n"
    r"  why: (?P<why>\S.*)\n"
    r"(  try: (?P<hint>\S.*)\n)?",
)
SOMEBODY = 64123  # an ordinary user without an account and without subordinate ids


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    with no_orphans():
        yield


def refused(minibox: Minibox, *words: object, code: int = 125, clean: bool = True) -> str:
    """The error of a command that has to fail: one, on stderr, and nothing left."""
    done = minibox(*words)
    lines = done.stderr.decode().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("minibox: note: "))
    assert done.returncode == code, f"exit code {done.returncode}: {text}"
    assert done.stdout == b""
    assert text.startswith("minibox: ")
    assert text.count("minibox: ") == 1, f"more than one error: {text}"
    assert "Traceback" not in text
    assert "[Errno" not in text
    if clean:
        assert leftovers(minibox) == []
    return text


def step(text: str) -> dict[str, str]:
    """The parts of a step's error, which is all there is."""
    found = STEP.fullmatch(text)
    assert found, f"not the form of a step's error: {text!r}"
    parts = {name: value or "" for name, value in found.groupdict().items()}
    assert 1 <= int(parts["index"]) <= int(parts["total"])
    return parts


# --- ROOTFS --------------------------------------------------------------------------------------------


def test_a_missing_rootfs(minibox, tmp_path):
    assert (
        refused(minibox, "run", tmp_path / "no", "true") == f"minibox: ROOTFS: {tmp_path}/no does not exist\n"
    )


def test_a_file_as_rootfs(minibox, tmp_path):
    (tmp_path / "file").write_text("")
    text = refused(minibox, "run", tmp_path / "file", "true")
    assert text == f"minibox: ROOTFS: {tmp_path}/file is not a directory\n"


def test_a_directory_that_is_no_root_names_the_command_that_makes_one(minibox, tmp_path):
    text = refused(minibox, "run", tmp_path)
    assert text.startswith(f"minibox: ROOTFS: {tmp_path} is not a root file system")
    assert f"scripts/build-rootfs {tmp_path}" in text


def test_no_rootfs_at_all(minibox):
    assert "ROOTFS is missing: minibox run [FLAG...] ROOTFS" in refused(minibox, "run")


def test_an_unreadable_rootfs(minibox, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    user = minibox if os.geteuid() else as_somebody(minibox)
    text = refused(user, "run", closed, "true")
    assert text == f"minibox: ROOTFS: {closed} may not be read by this user\n"


# --- the command ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("--init",), ("-d", "--rm")], ids=["plain", "init", "detached"])
@pytest.mark.parametrize(
    ("command", "code", "errno", "hint"),
    [
        ("no-such-command", 127, "ENOENT", "is the program in the root"),
        ("/bin/no-such-command", 127, "ENOENT", "is the program in the root"),
        ("/plain", 126, "EACCES", "not executable"),
        ("/etc", 126, "EACCES", "directory"),
        ("/script", 126, "ENOENT", "interpreter"),
        ("script", 126, "ENOENT", "interpreter"),
        ("/dynamic", 126, "ENOENT", "loader"),
        ("/foreign", 126, "ENOEXEC", "machine"),
        ("/headless", 126, "ENOEXEC", "script"),
    ],
)
def test_a_command_that_cannot_be_run(minibox, spoilt_root, flags, command, code, errno, hint):
    parts = step(refused(minibox, "run", *flags, spoilt_root, command, code=code))
    assert (parts["id"], parts["errno"]) == ("process.execute", errno)
    assert parts["index"] == parts["total"]
    assert f'"{command}"' in parts["call"] or command == "script"
    assert hint in parts["hint"]


def test_the_missing_interpreter_and_the_wrong_machine_are_named(minibox, spoilt_root):
    assert '"/no/such/interpreter"' in refused(minibox, "run", spoilt_root, "/script", code=126)
    assert "ELF machine 243" in refused(minibox, "run", spoilt_root, "/foreign", code=126)


@pytest.fixture
def spoilt_root(own_root: Path) -> Path:
    """A root with programs that cannot be run."""
    program = (own_root / "bin" / "busybox").read_bytes()[:8192]
    foreign = bytearray(program)
    foreign[18:20] = (243).to_bytes(2, "little")  # RISC-V
    files = {
        "script": b"#!/no/such/interpreter -x\nexit\n",
        "bin/script": b"#!/no/such/interpreter\n",
        "headless": b"exit 3\n",
        "foreign": bytes(foreign),
        "dynamic": dynamic_program(),
        "plain": b"#!/bin/sh\n",
    }
    for name, data in files.items():
        (own_root / name).write_bytes(data)
        (own_root / name).chmod(0o755 if name != "plain" else 0o644)
    return own_root


def dynamic_program() -> bytes:
    """A little program whose dynamic loader is nowhere."""
    loader = b"/no/such/loader.so\0"
    header = bytearray(Path("/proc/self/exe").read_bytes()[:64])
    header[16:18] = (3).to_bytes(2, "little")  # ET_DYN
    header[32:40] = (64).to_bytes(8, "little")  # program headers
    header[54:58] = (56).to_bytes(2, "little") + (1).to_bytes(2, "little")
    interp = (3).to_bytes(4, "little") + (4).to_bytes(4, "little")
    for value in (120, 120, 120, len(loader), len(loader), 1):
        interp += value.to_bytes(8, "little")
    return bytes(header) + interp + loader


def test_a_command_that_is_empty(minibox, rootfs):
    assert "the command is empty" in refused(minibox, "run", rootfs, "")


def test_arguments_that_are_too_long(minibox, rootfs):
    """A string of execve(2) may have 128 KiB; this one comes from a file, since it cannot be in argv."""
    file = minibox.run_dir.parent / "env"
    file.write_text("LONG=" + "x" * 140000)
    parts = step(refused(minibox, "run", "--env-file", file, rootfs, "true", code=126))
    assert (parts["id"], parts["errno"]) == ("process.execute", "E2BIG")
    assert "too long" in parts["hint"]


# --- flags and values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--memroy", "5m", "/"], "unknown flag --memroy; did you mean --memory?"),
        (["run", "--netwrok=host", "/"], "unknown flag --netwrok; did you mean --network?"),
        (["run", "-Z", "/"], "unknown flag -Z"),
        (["run", "-iZ", "/"], "unknown flag -Z"),
        (["exec", "--memory", "1m", "x", "true"], "unknown flag --memory"),
        (["run", "--memory"], "--memory needs a value: SIZE"),
        (["run", "--rm=perhaps", "/"], "--rm takes no value but true or false"),
        (["run", "-t", "-T", "/"], "--tty and --no-tty contradict one another"),
        (["run", "--rm", "--keep", "/"], "--rm and --keep contradict one another"),
        (["run", "--writable", "--read-only", "/"], "--writable and --read-only contradict one another"),
        (["frobnicate"], 'unknown verb "frobnicate"'),
        (["runn", "/"], 'unknown verb "runn"; did you mean run?'),
        (["--root"], "--root needs a directory"),
        (["exec", "x"], "COMMAND is missing: minibox exec [FLAG...] ID COMMAND"),
        (["exec"], "ID is missing"),
        (["kill"], "ID is missing"),
        (["kill", "-s", "FOO", "x"], 'unknown signal "FOO"'),
        (["kill", "-s", "99", "x"], 'unknown signal "99"'),
        (["ps", "x"], 'minibox ps takes no "x"'),
        (["logs", "a", "b"], "minibox logs [FLAG...] ID"),
    ],
    ids=lambda value: " ".join(value)[:24] if isinstance(value, list) else "",
)
def test_a_command_line_that_cannot_be_understood(minibox, words, message):
    text = refused(minibox, *words)
    assert text.startswith(f"minibox: {message}")
    assert text.endswith("minibox help lists the verbs and flags\n")


BAD_VALUES = [
    ("--user=nobody-knows", "process.user", 'no user "nobody-knows" in the container\'s /etc/passwd'),
    ("--user=-1", "process.user", '"-1" is no user'),
    ("--user=", "process.user", '"" is no user'),
    ("--user=4294967295", "process.user", "beyond the last one"),
    ("--user=0:no-group", "process.user", 'no group "no-group"'),
    ("--user=0:", "process.user", '"" is no group'),
    ("--user=70000", "user.ids", "setresuid(70000, 70000, 70000)"),
    ("--group-add=no-group", "process.user", 'no group "no-group"'),
    ("--cap-add=FLY", "--cap-add", 'unknown capability "FLY"'),
    ("--cap-drop=CAP_FLY", "--cap-drop", 'unknown capability "CAP_FLY"'),
    ("--cap-ambient=SYS_ADMIN", "--cap-ambient", "must be permitted too"),
    ("--net=bridge", "--network", '"bridge" is not new, host, container:ID or ns:/PATH'),
    ("--pid=container:", "--pid", '"container:" is not'),
    ("--ipc=yes", "--ipc", '"yes" is not'),
    ("--net=ns:/no/such", "--network", "/no/such: No such file or directory"),
    ("--net=ns:/etc/passwd", "join.net", "setns"),
    ("--uts=/proc/self/ns/net", "join.uts", "setns"),
    ("--userns=host:x", "--userns", "is not new"),
    ("--mntns=host", "--mntns", "ROOTFS must be /"),
    ("--volume=/etc:/x:fast", "--volume", 'unknown mount option "fast"'),
    ("--volume=/etc:/x:ro,size=5", "--volume", 'unknown mount option "size=5"'),
    ("--volume=/etc", "--volume", "is not SRC:DST"),
    ("--volume=/etc:/x:ro:rw", "--volume", "is not SRC:DST"),
    ("--volume=:/x", "--volume", "is not SRC:DST"),
    ("--volume=/no/such:/x", "--volume", "/no/such does not exist on the host"),
    ("--volume=name:/x", "--volume", '"name" is no path: write ./name'),
    ("--volume=/etc:x", "--volume", '"x" is not an absolute path inside the container'),
    ("--volume=/etc:/../x", "--volume", 'has ".." in it: it could leave the root'),
    ("--volume=/etc:/a/../../x", "--volume", 'has ".." in it: it could leave the root'),
    ("--volume=/etc:/", "--volume", "the root itself is no place for a mount"),
    ("--volume=/etc:/.//", "--volume", "the root itself is no place for a mount"),
    ("--mount=type=nfs,target=/x", "--mount", 'type "nfs"'),
    ("--mount=type=bind,target=/x", "--mount", "has no source="),
    ("--mount=source=/etc", "--mount", "has no target="),
    ("--mount=source=/no/such,target=/x", "--mount", "/no/such does not exist on the host"),
    ("--mount=type=tmpfs,target=/x,speed=9", "--mount", 'unknown mount option "speed=9"'),
    ("--tmpfs=/x:size=much", "--tmpfs", '"much" is no size'),
    ("--tmpfs=/x:mode=99", "--tmpfs", 'mode "99" is no octal number'),
    ("--tmpfs=/x:huge=sometimes", "mount.x", "Bad value for 'huge'"),
    ("--tmpfs=x", "--tmpfs", "not an absolute path"),
    ("--memory=5x", "--memory", '"5x" is no size'),
    ("--memory=", "--memory", '"" is no size'),
    ("--memory=-5m", "--memory", '"-5m" is no size'),
    ("--memory=1e3", "--memory", '"1e3" is no size'),
    ("--memory=9999999999999t", "--memory", "more than 2^63 bytes"),
    ("--memory=5", "--memory", "less than any process needs"),
    ("--memory-swap=1g", "--memory-swap", "needs --memory"),
    ("--cpus=0", "--cpus", '"0" is no number above 0'),
    ("--cpus=0.001", "--cpus", "the kernel's least is 0.01"),
    ("--cpus=nan", "--cpus", '"nan" is no number above 0'),
    ("--cpuset-cpus=a", "--cpuset-cpus", '"a" is no list of processors'),
    ("--cpuset-cpus=3-1", "--cpuset-cpus", '"3-1" is no list of processors'),
    ("--cpu-shares=1", "--cpu-shares", "1 is not between 2 and 262144"),
    ("--pids-limit=0", "--pids-limit", "0 would let nothing run"),
    ("--pids-limit=many", "--pids-limit", '"many" is no whole number'),
    ("--ulimit=nofile=x", "--ulimit", '"x" is no whole number'),
    ("--ulimit=files=1", "--ulimit", '"files=1" is not NAME=SOFT[:HARD]'),
    ("--ulimit=nofile=5:1", "--ulimit", "the soft limit is above the hard one"),
    ("--ulimit=nofile=99999999999", "rlimit.nofile", "prlimit64"),
    ("--oom-score-adj=2000", "--oom-score-adj", "2000 is not between -1000 and 1000"),
    ("--uidmap=0:1:x", "--uidmap", '"0:1:x" is not IN:OUT:SIZE'),
    ("--uidmap=0:1", "--uidmap", '"0:1" is not IN:OUT:SIZE'),
    ("--uidmap=0:-1:1", "--uidmap", '"0:-1:1" is not IN:OUT:SIZE'),
    ("--uidmap=0:100000:0", "--uidmap", "must be at least 1"),
    ("--gidmap=0:4294967290:10", "--gidmap", "goes beyond the last id"),
    ("--env==x", "--env", '"=x" is not NAME=VALUE'),
    ("--env=A B=x", "--env", '"A B=x" is not NAME=VALUE'),
    ("--env-file=/no/such", "--env-file", "/no/such: No such file or directory"),
    ("--env-file=/etc", "--env-file", "/etc: Is a directory"),
    ("--seccomp=/no/such", "--seccomp", "/no/such: No such file or directory"),
    ("--seccomp=/etc/passwd", "--seccomp", "/etc/passwd: "),
    ("--workdir=x", "--workdir", '"x" is not an absolute path'),
    ("--workdir=/etc/passwd", "process.cwd", "fchdir"),
    ("--hostname=a b", "--hostname", '"a b" is no host name'),
    (f"--hostname={'x' * 65}", "--hostname", "is no host name"),
    ("--umask=999", "--umask", '"999" is no octal number'),
    ("--timeout=soon", "--timeout", '"soon" is no number above 0'),
    ("--timeout=0", "--timeout", '"0" is no number above 0'),
    ("--stop-timeout=x", "--stop-timeout", '"x" is no number above 0'),
    ("--time-offset=x", "--time-offset", '"x" is not'),
    ("--time-offset=uptime=5", "--time-offset", '"uptime=5" is not'),
    ("--sysctl=kernel.panic=1", "--sysctl", "belongs to no namespace"),
    ("--sysctl=net.ipv4.ip_forward", "--sysctl", "is not KEY=VALUE"),
    ("--sysctl=net.no.such=1", "sysctl.net.no.such", "openat2"),
    ("--sysctl=net/../../kernel/core_pattern=|x", "--sysctl", "malformed"),
    ("--annotation=x", "--annotation", '"x" is not KEY=VALUE'),
    ("--name=", "--name", "a container ID cannot be empty"),
    ("--name=../x", "--name", "invalid character"),
    ("--name=.x", "--name", "must begin with"),
    (f"--name={'x' * 129}", "--name", "at most 128"),
    ("--preserve-fds=3", "--preserve-fds 3", "descriptor 3 is not open"),
    ("--pidfile=/no/such/file", "--pidfile", "/no/such/file: No such file or directory"),
    ("--trace=/no/such/file", "--trace", "/no/such/file: No such file or directory"),
]


@pytest.mark.parametrize(("flag", "where", "message"), BAD_VALUES, ids=[row[0][:40] for row in BAD_VALUES])
def test_a_bad_value_is_refused_by_name(minibox, rootfs, flag, where, message):
    text = refused(minibox, "run", flag, rootfs, "true")
    if where.startswith("--"):
        assert text.startswith(f"minibox: {where}: ")
        assert text.count("\n") == 1
        assert message in text
    else:
        parts = step(text)
        assert parts["id"] == where
        assert message in parts["call"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--uidmap=0:100000:10", "--uidmap=5:200000:10"),
        ("--uidmap=0:100000:10", "--uidmap=20:100005:10"),
        ("--uidmap=0:100000:10", "--gidmap=0:1:2", "--gidmap=1:9:1"),
    ],
)
def test_maps_that_overlap(minibox, rootfs, flags):
    text = refused(minibox, "run", *flags, rootfs, "true")
    assert re.match(r"minibox: --[ug]idmap: [\d:]+ and [\d:]+ overlap in the (container|host)\n", text)


def test_more_maps_than_the_kernel_takes(minibox, rootfs):
    flags = [f"--uidmap={2 * number}:{100000 + 2 * number}:1" for number in range(341)]
    assert "--uidmap: 341 lines: the kernel takes 340" in refused(minibox, "run", *flags, rootfs, "true")


def test_maps_for_no_new_user_namespace(minibox, rootfs):
    text = refused(minibox, "run", "--userns", "host", "--uidmap", "0:0:1", rootfs, "true")
    assert text == "minibox: --uidmap: maps are for a new user namespace, not for --userns host\n"


def test_swap_below_memory(minibox, rootfs):
    text = refused(minibox, "run", "-m", "64m", "--memory-swap", "32m", rootfs, "true")
    assert text.startswith("minibox: --memory-swap: ")


def test_two_mounts_at_one_place(minibox, rootfs):
    text = refused(minibox, "run", "-v", "/etc:/x", "--tmpfs", "/x", rootfs, "true")
    assert text == "minibox: --volume: /x is the destination of two mounts\n"


@pytest.mark.parametrize(("content", "line"), [("A=1\n=2\n", 2), ("# ok\n\nA B=1\n", 3), ("\tA\0=1\n", 1)])
def test_a_malformed_env_file_is_named_with_the_line(minibox, rootfs, tmp_path, content, line):
    file = tmp_path / "env"
    file.write_text(content)
    text = refused(minibox, "run", "--env-file", file, rootfs, "true")
    assert text.startswith(f"minibox: {file}:{line}: ")


def test_a_variable_of_an_env_file_may_have_any_character_but_a_newline(minibox, rootfs, tmp_path):
    text = "x\x0b\x0c\x1c\x85\u2028y"
    (tmp_path / "env").write_text(f"A={text}\r\nB=2\n", newline="")
    done = minibox("run", "--env-file", tmp_path / "env", rootfs, "sh", "-c", 'printf "%s" "$A$B"')
    assert done.stdout.decode() == text + "2"


@pytest.mark.parametrize("profile", ["{", '{"a": 1}', "[]", '{"defaultAction": "SCMP_ACT_FLY"}'])
def test_a_malformed_seccomp_profile(minibox, rootfs, tmp_path, profile):
    (tmp_path / "profile.json").write_text(profile)
    text = refused(minibox, "run", "--seccomp", tmp_path / "profile.json", rootfs, "true")
    assert text.startswith("minibox: --seccomp: ")


def test_a_destination_that_leaves_the_root_by_a_link_stays_inside(minibox, own_root, canary):
    """ "/out/file" is the host's canary to whoever follows the link outside."""
    (own_root / "out").symlink_to(canary)
    done = minibox("run", "-v", "/etc/hostname:/out/file", own_root, "true")
    if done.returncode:
        assert step(done.stderr.decode())["id"] == "mount.out-file"
    assert (canary / "file").read_text() == "untouched\n"
    assert sorted(os.listdir(canary)) == ["file"]


# --- names and other containers ------------------------------------------------------------------------


def test_a_name_in_use(minibox, rootfs):
    assert minibox("run", "-d", "--name", "web", rootfs, "sleep", "1000").returncode == 0
    text = refused(minibox, "run", "--name", "web", rootfs, "true", clean=False)
    assert text == 'minibox: the name "web" is in use: minibox rm web frees it\n'
    assert minibox.state("web")["status"] == "running", "the other one is none the worse"


@pytest.mark.parametrize("verb", ["exec", "inspect", "kill", "logs", "rm", "stop", "wait"])
def test_a_container_that_does_not_exist(minibox, verb):
    words = [verb, "nobody", *(["true"] if verb == "exec" else [])]
    assert refused(minibox, *words) == 'minibox: no container "nobody": minibox ps lists them\n'


def test_an_ambiguous_name(minibox, rootfs):
    for name in ("web1", "web2"):
        minibox("run", "-d", "--name", name, rootfs, "sleep", "1000")
    assert '"web" is ambiguous: web1 web2' in refused(minibox, "kill", "web", clean=False)


def test_a_container_that_has_ended(minibox, rootfs):
    minibox("run", "-d", "--name", "old", rootfs, "true")
    assert minibox("wait", "old").stdout == b"0\n"
    text = refused(minibox, "exec", "old", "true", clean=False)
    assert text == "minibox: container old is not running\n"
    text = refused(minibox, "run", "--pid", "container:old", rootfs, "true", clean=False)
    assert text == "minibox: container old is not running\n"


def test_a_running_container_is_not_removed_unasked(minibox, rootfs):
    minibox("run", "-d", "--name", "busy", rootfs, "sleep", "1000")
    assert "container busy is running: minibox stop busy" in refused(minibox, "rm", "busy", clean=False)


@pytest.mark.parametrize(
    ("flags", "code", "where"),
    [
        (("web", "no-such-command"), 127, "process.execute"),
        (("web", "/etc/passwd"), 126, "process.execute"),
        (("--user", "stranger", "web", "true"), 125, "process.user"),
        (("--workdir", "/etc/passwd", "web", "true"), 125, "process.cwd"),
    ],
)
def test_exec_of_what_cannot_be_run(minibox, rootfs, flags, code, where):
    minibox("run", "-d", "--name", "web", rootfs, "sleep", "1000")
    assert step(refused(minibox, "exec", *flags, code=code, clean=False))["id"] == where
    assert len(processes(minibox, "web")) == 1, "nobody stays in the container"


def test_a_store_that_others_can_enter(minibox, rootfs, tmp_path):
    tmp_path.chmod(0o755)
    text = refused(minibox, "--root", tmp_path, "run", rootfs, "true")
    assert text == (
        f"minibox: {tmp_path} must be a directory of yours with mode 0700: remove it, or name another\n"
    )


def test_a_file_as_store(minibox, tmp_path):
    (tmp_path / "file").write_text("")
    assert refused(minibox, "--root", tmp_path / "file", "ps").startswith(f"minibox: {tmp_path}/file ")


# --- what the host does not give -----------------------------------------------------------------------


def as_somebody(minibox: Minibox, *before: str) -> Minibox:
    """The command as an ordinary user runs it, with a store of that user's; `before` runs it in turn."""
    home = minibox.run_dir.parent / "somebody"
    home.mkdir(exist_ok=True)
    for place in (home, *minibox.run_dir.parents):  # pytest's own directories are 0700
        if place.stat().st_uid == 0 and not place.stat().st_mode & 0o001:
            place.chmod(place.stat().st_mode | 0o011)
    os.chown(home, SOMEBODY, SOMEBODY)
    become = [
        "setpriv",
        f"--reuid={SOMEBODY}",
        f"--regid={SOMEBODY}",
        "--clear-groups",
        "--bounding-set=-all",
    ]
    home_variables = [f"HOME={home}", "XDG_RUNTIME_DIR=", "XDG_CACHE_HOME="]
    command = [*become, "env", *home_variables, *before, *minibox.command]
    return Minibox(home / "run", home / "data", command)


#: no user namespaces, for the ordinary user of the namespace made here; the host's setting stays as it is
FORBIDDEN = (
    "unshare", "--user", f"--map-user={SOMEBODY}", f"--map-group={SOMEBODY}", "--keep-caps", "sh", "-c",
    "echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps=-all --inh-caps=-all \"$@\"",
    "sh",
)  # fmt: skip


@pytest.mark.root
def test_no_permission_for_user_namespaces(minibox, rootfs):
    setting = Path("/proc/sys/user/max_user_namespaces")
    before = setting.read_text()
    parts = step(refused(as_somebody(minibox, *FORBIDDEN), "run", rootfs, "true"))
    assert parts["id"] == "clone"
    assert parts["call"].startswith("clone3(")
    assert parts["errno"] == "ENOSPC"
    assert parts["hint"] == "user namespaces are forbidden here: sysctl -w user.max_user_namespaces=15000"
    assert setting.read_text() == before


@pytest.mark.root
def test_an_ordinary_user_and_what_only_root_may(minibox, rootfs):
    user = as_somebody(minibox)
    assert refused(user, "run", "--userns", "host", rootfs, "true").startswith(
        "minibox: --userns: host is for root"
    )
    assert refused(user, "run", "-v", "/etc:/x:idmap", rootfs, "true").startswith("minibox: --volume: idmap")
    assert step(refused(user, "run", "--user", "5", rootfs, "true"))["id"] == "user.ids"
    assert refused(user, "run", "--uidmap", "0:5:1", rootfs, "true").startswith("minibox: --uidmap: ")
    text = refused(user, "run", "-m", "64m", rootfs, "true")
    assert text.startswith("minibox: --memory: no permission to make a group in ")


@pytest.mark.root
@pytest.mark.parametrize(
    ("flag", "controller"),
    [
        ("--cpus=0.5", "cpu"),
        ("--cpuset-cpus=0", "cpuset"),
        ("--memory=64m", "memory"),
        ("--pids-limit=9", "pids"),
    ],
)
def test_a_controller_that_is_missing(minibox, rootfs, flag, controller):
    """Its hierarchy is unmounted, in a mount namespace that only this command is in."""
    hierarchy = detect.detect().find(controller)
    assert hierarchy is not None
    poor = in_own_mounts(minibox, f"umount -l {hierarchy.mountpoint}")
    text = refused(poor, "run", flag, rootfs, "true")
    name = flag.partition("=")[0]
    assert text == (
        f"minibox: {name}: the cgroup controller {controller} is not available on this host "
        "(see /proc/cgroups)\n"
    )
    assert poor("run", rootfs, "true").returncode == 0, "only a limit that was asked for is an error"


@pytest.mark.root
def test_a_full_disk_below_the_layers(minibox, rootfs):
    data = minibox.data_dir
    data.mkdir()
    full = in_own_mounts(minibox, f"mount -t tmpfs -o nr_inodes=2,mode=700 full {data}")
    parts = step(refused(full, "run", rootfs, "true"))
    assert (parts["id"], parts["errno"]) == ("root.layer", "ENOSPC")
    assert "--data-root" in parts["hint"]


@pytest.mark.root
@pytest.mark.parametrize("inodes", range(1, 14))
def test_a_full_disk_below_the_states(minibox, rootfs, inodes):
    """At whichever file it is full: an error, and the containers' part is as it was."""
    minibox.run_dir.mkdir(mode=0o700)
    left = minibox.run_dir.parent / "left"
    place = minibox.run_dir
    full = in_own_mounts(
        minibox,
        f"mount -t tmpfs -o nr_inodes={inodes},mode=700 full {place}",
        f"find {place} -mindepth 2 ! -name next >{left}",
    )
    done = full("run", rootfs, "true")
    text = done.stderr.decode()
    assert left.read_text() == ""
    assert done.returncode in (0, 125)
    assert done.returncode or inodes > 8, "it cannot have worked"
    if done.returncode:
        assert text.startswith("minibox: ")
        assert text.count("minibox: ") == 1
        assert re.search(r"ENOSPC|No space left on device", text)


@pytest.mark.root
def test_a_disk_that_is_full_while_the_payload_writes(minibox, rootfs):
    data = minibox.data_dir
    data.mkdir()
    small = in_own_mounts(minibox, f"mount -t tmpfs -o size=256k,mode=700 small {data}")
    done = small("run", rootfs, "sh", "-c", "head -c 1000000 /dev/zero >/big; echo code $?")
    assert done.returncode == 0
    assert done.stdout == b"code 1\n"
    assert leftovers(minibox) == []


def in_own_mounts(minibox: Minibox, before: str, after: str = ":") -> Minibox:
    """The command between two others, in a mount namespace of its own."""
    script = f'{before} || exit 99; "$@"; code=$?; {after}; exit $code'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *minibox.command]
    return Minibox(minibox.run_dir, minibox.data_dir, command)


def test_a_root_that_cannot_be_written_to_needs_no_mount_point_that_is_there(minibox, rootfs, tmp_path):
    done = minibox("run", "--read-only", "-v", f"{tmp_path}:/new/place", rootfs, "ls", "/new")
    assert (done.returncode, done.stdout) == (0, b"place\n"), done.stderr
