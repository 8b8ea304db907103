"""Is it so?  Every step of a Plan, compared with what the kernel says of the running container now.

Theory.  A Plan is pure: compiled again from the Spec and the Host that the state keeps, it is the
Plan that was run.  For each kind of operation there is one check here; it sees the container through
the host's /proc (`View`), and, where only a process inside can tell, through a probe that enters the
container's namespaces, looks, and ends.  A verdict is

    held          the kernel reports what the step asked for
    missing       it reports something else
    unobservable  no interface tells; the text says why

A step whose effect is over by now (a descriptor that was handed on, a wait) has nothing left to
observe and says so.  An operation without a check is reported as such: nothing is passed over.
"""

from __future__ import annotations

import os
import stat

from minibox import fastjson
from minibox.cgroup.files import agree
from minibox.errors import KernelError
from minibox.kernel import calls, caps, filters, idmap, inroot, mounts
from minibox.kernel import consts as c
from minibox.kernel.host import Host
from minibox.plan import compile as plans
from minibox.plan import edit, ops
from minibox.record import Record
from minibox.runtime import live, prepare
from minibox.spec.model import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minibox.kernel.mounts import MountEntry
    from minibox.plan.model import Plan, Step

    Verdict = tuple[str, str]

HELD, MISSING, UNOBSERVABLE = "held", "missing", "unobservable"


class Finding(Record):
    """What was found of one step."""

    step: str
    verdict: str
    text: str


def verify(state: dict[str, Any]) -> list[Finding]:
    """One Finding a step of a running container's Plan.  Raises StateError when it does not run."""
    view = View(state, live.running_pid(state))
    findings = []
    for step in view.plan:
        check = CHECKS.get(type(step.op))
        if check is None:
            verdict, text = UNOBSERVABLE, f"no check for {type(step.op).__name__}"
        else:
            try:
                verdict, text = check(view, step)
            except (OSError, KeyError, ValueError) as error:
                verdict, text = MISSING, f"cannot be read: {error}"
        findings.append(Finding(step=step.id, verdict=verdict, text=text))
    return findings


def full_plan(state: dict[str, Any]) -> Plan:
    """The Plan of a container with nothing left out, compiled again from what its state keeps."""
    spec, host = Spec.from_json(state["spec"]), Host.from_json(state["host"])
    return plans.compile(spec, host)


def lines(findings: list[Finding], *, everything: bool) -> list[str]:
    """For a person: a line a step (`everything`), or what is missing only; then the counts."""
    width = max((len(one.step) for one in findings), default=0)
    shown = [
        f"{one.verdict:12}  {one.step:{width}}  {one.text}"
        for one in findings
        if everything or one.verdict == MISSING
    ]
    counts = [sum(one.verdict == kind for one in findings) for kind in (HELD, MISSING, UNOBSERVABLE)]
    return [*shown, "{} steps held, {} missing, {} cannot be observed".format(*counts)]


class View:
    """A running container as the kernel shows it: read when first asked for, then kept."""

    def __init__(self, state: dict[str, Any], pid: int) -> None:
        self.state = state
        self.pid = pid
        self.spec = Spec.from_json(state["spec"])
        self.host = Host.from_json(state["host"])
        self.plan = full_plan(state)
        self.left_out = {step.id for step in self.plan} - {
            step.id for step in edit.leave_out(self.plan, tuple(state["left_out"]))
        }
        self.processes = sorted({pid, *(p for one in live.group_of(state) for p in live.group_pids(one))})
        self._status: dict[int, dict[str, str]] = {}
        self._mounts: dict[str, MountEntry] | None = None
        self._inside: dict[str, Any] | None = None

    def read(self, name: str) -> str:
        """A file of the container's first process below /proc."""
        return calls.read_file(f"/proc/{self.pid}/{name}")

    def status(self, pid: int) -> dict[str, str]:
        """The lines of /proc/PID/status, by their names."""
        if pid not in self._status:
            lines = calls.read_file(f"/proc/{pid}/status").splitlines()
            self._status[pid] = {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}
        return self._status[pid]

    def every_status(self, name: str) -> list[str]:
        """One line of the status of every process of the container that is still there."""
        found = []
        for pid in self.processes:
            try:
                found.append(self.status(pid)[name])
            except KernelError:
                continue
        return found

    def mount(self, place: str) -> MountEntry | None:
        """What is mounted at a path of the container, on top."""
        if self._mounts is None:
            self._mounts = {entry.mountpoint: entry for entry in mounts.of(self.pid)}
        return self._mounts.get(place)

    def all_mounts(self) -> list[MountEntry]:
        """Every mount that is on top somewhere."""
        self.mount("/")
        return list((self._mounts or {}).values())

    def path(self, place: str) -> str:
        """A path of the container as the host reaches it; for places that the runtime made."""
        return f"/proc/{self.pid}/root{place}"

    def namespace(self, kind: str, pid: int | str = "") -> str:
        """The identity of a namespace of the container, or of another process."""
        return os.readlink(f"/proc/{pid or self.pid}/ns/{c.NAMESPACES[kind][1]}")

    def inside(self) -> dict[str, Any]:
        """What a process in the container's namespaces sees: see `_look_around`."""
        if self._inside is None:
            names = [step.op.name for step in self.plan if isinstance(step.op, ops.SetSysctl)]
            self._inside = _probe(self, names)
        return self._inside


# --- the probe ---------------------------------------------------------------------------------------


def _probe(view: View, sysctls: list[str]) -> dict[str, Any]:
    """Enter the container's namespaces in a child, look, and come back with plain data."""
    owned = [one.kind for one in view.spec.namespaces if one.path == "" and one.kind != "time"]
    joined = [one.kind for one in view.spec.namespaces if one.path not in ("", "host")]
    if view.spec.userns == "join":
        owned, joined = owned + joined, []
    pidfd = calls.pidfd_open(view.pid)
    reading, writing = os.pipe()
    child, childfd = calls.clone3(0)
    if child == 0:
        try:
            calls.set_dumpable(False)
            for kinds in (joined, owned):
                flags = 0
                for kind in kinds:
                    flags |= c.NAMESPACES[kind][0]
                if flags:
                    calls.setns(pidfd, flags)
            if view.spec.uid_maps and idmap.to_host(idmap.lines(view.spec.uid_maps), 0) is not None:
                calls.setresgid(0)
                calls.setresuid(0)
            os.write(writing, fastjson.dumps(_look_around(sysctls)).encode())
        except OSError as error:
            os.write(writing, fastjson.dumps({"error": str(error)}).encode())
        os._exit(0)
    os.close(writing)
    os.close(pidfd)
    try:
        found: dict[str, Any] = fastjson.loads(calls.read_all(reading))
    finally:
        os.close(reading)
        os.waitpid(child, 0)
        os.close(childfd)
    if "error" in found:
        raise KernelError(1, "probe", (found["error"],))
    return found


def _look_around(sysctls: list[str]) -> dict[str, Any]:
    """In the container: names and settings.  Nothing is imported, no path leaves its /proc."""
    name = os.uname()
    found: dict[str, Any] = {"hostname": name.nodename, "sysctls": {}}
    root = calls.openat(c.AT_FDCWD, "/", c.O_PATH | os.O_DIRECTORY)
    proc = inroot.plain_directory(root, "/proc")
    if calls.fstatfs_type(proc) != c.PROC_SUPER_MAGIC:
        raise KernelError(22, "fstatfs", ("/proc", "not a procfs"))
    found["domainname"] = _setting(proc, "kernel/domainname")
    for sysctl in sysctls:
        found["sysctls"][sysctl] = _setting(proc, sysctl)
    return found


def _setting(proc: int, name: str) -> str:
    """A file below /proc/sys, which is a mount of its own where it is read-only."""
    resolve = c.RESOLVE_BENEATH | c.RESOLVE_NO_SYMLINKS
    try:
        fd = calls.openat2(proc, f"sys/{name}", os.O_RDONLY, resolve)
    except KernelError as error:
        return f"({error.strerror})"
    try:
        return calls.read_all(fd).strip()
    finally:
        os.close(fd)


# --- checks: small helpers ----------------------------------------------------------------------------


def _same(found: object, wanted: object) -> Verdict:
    if found == wanted:
        return HELD, str(found)
    return MISSING, f"{found}, and {wanted} was asked for"


def _over(text: str) -> Callable[[View, Step], Verdict]:
    return lambda _view, _step: (UNOBSERVABLE, text)


def _flags(entry: MountEntry | None, wanted: tuple[str, ...], place: str) -> Verdict:
    """Whether something is mounted at a place with these flags."""
    if entry is None:
        return MISSING, f"nothing is mounted at {place}"
    lacking = [
        flag for flag in wanted if flag not in entry.options and flag not in ("relatime", "strictatime")
    ]
    if lacking:
        return MISSING, f"{place} is mounted without {' '.join(lacking)}"
    return HELD, f"{entry.kind} ({','.join(entry.options)})"


def _mask(text: str) -> int:
    return int(text, 16)


# --- checks: the host's side ---------------------------------------------------------------------------


def _layer(view: View, step: Step) -> Verdict:
    op: Any = step.op
    status = os.stat(op.path)
    return _same((status.st_uid, status.st_gid), (op.uid, op.gid))


def _copied(view: View, _step: Step) -> Verdict:
    entry = view.mount("/")
    if entry is not None and entry.kind != "overlay":
        return HELD, f"the root is a directory of its own ({entry.kind})"
    return MISSING, "the root is no copy"


def _group(view: View, step: Step) -> Verdict:
    op: Any = step.op
    if view.pid in live.group_pids(op.directory):
        return HELD, f"{len(live.group_pids(op.directory))} processes in it"
    return MISSING, f"the container is not in {op.directory}"


def _group_value(_view: View, step: Step) -> Verdict:
    op: Any = step.op
    if op.file == "cgroup.subtree_control":
        enabled = calls.read_file(f"{op.directory}/{op.file}").split()
        lacking = [one for one in op.value.split() if one[1:] not in enabled]
        return (MISSING, f"not handed down: {' '.join(lacking)}") if lacking else (HELD, " ".join(enabled))
    file, value = op.file, op.value
    if isinstance(op, ops.CgroupWriteEither) and not os.path.exists(f"{op.directory}/{file}"):
        file, value = op.other, op.other_value
    try:
        found = calls.read_file(f"{op.directory}/{file}").strip()
    except KernelError as error:
        if isinstance(op, ops.LimitSwap) and error.errno == 2:
            return HELD, "this machine has no swap, and counts none"
        raise
    if agree(file, found, value):
        return HELD, " ".join(found.split("\n")[:1])
    return MISSING, f"{found}, and {value} was asked for"


def _devices(_view: View, step: Step) -> Verdict:
    op: Any = step.op
    if isinstance(op, ops.FilterDevices):
        from minibox.cgroup import devices

        held = devices.holds(op.directory, op.rules)
        return (HELD, "this program") if held else (MISSING, "the group has not the program of these rules")
    found = calls.read_file(f"{op.directory}/devices.list").splitlines()
    more = sorted(set(found) - set(op.rules))
    if more:
        return MISSING, f"allowed beyond the rules: {'; '.join(more[:5])}"
    return HELD, f"{len(found)} rules"


def _inherited(_view: View, step: Step) -> Verdict:
    op: Any = step.op
    found = calls.read_file(f"{op.directory}/{op.file}").strip()
    return (HELD, found) if found else (MISSING, f"{op.file} is empty")


def _namespaces(view: View, step: Step) -> Verdict:
    op: Any = step.op
    shared = [kind for kind in op.namespaces if view.namespace(kind) == view.namespace(kind, "self")]
    if shared:
        return MISSING, f"shared with the host: {' '.join(shared)}"
    return HELD, " ".join(view.namespace(kind) for kind in op.namespaces)


def _joined(view: View, step: Step) -> Verdict:
    op: Any = step.op
    path = view.spec.namespace(op.kind).path
    return _same(
        view.namespace(op.kind), os.readlink(path) if path.startswith("/proc/") else _identity(path, op)
    )


def _identity(path: str, op: Any) -> str:
    return f"{c.NAMESPACES[op.kind][1]}:[{os.stat(path).st_ino}]"


def _setgroups(view: View, _step: Step) -> Verdict:
    return _same(view.read("setgroups").strip(), "deny")


def _id_map(view: View, step: Step) -> Verdict:
    op: Any = step.op
    found = tuple(tuple(map(int, line.split())) for line in view.read(f"{op.kind}_map").splitlines())
    return _same(found, op.maps)


def _idmapped(view: View, step: Step) -> Verdict:
    """A mount through an id map shows other owners than the directory that it is a mount of."""
    op: Any = step.op
    if op.name.startswith("source "):
        place = op.name.removeprefix("source ")
        entry = view.mount(place)
        idmapped = entry is not None and "idmapped" in entry.options
        return (HELD, f"{place} is idmapped") if idmapped else (MISSING, f"{place} is not idmapped")
    lines = idmap.lines(view.spec.uid_maps)
    upper = f"{view.host.layers}/{view.spec.id}/upper"
    for name in sorted(os.listdir(view.spec.root.path)):
        if os.path.lexists(f"{upper}/{name}"):
            continue  # changed in the container: its own layer shows, not ROOTFS
        below = os.stat(f"{view.spec.root.path}/{name}", follow_symlinks=False).st_uid
        wanted = idmap.to_host(lines, below)
        if wanted is not None and view.mount(f"/{name}") is None:
            return _same(os.stat(view.path(f"/{name}"), follow_symlinks=False).st_uid, wanted)
    return UNOBSERVABLE, "nothing of ROOTFS is shown unchanged, with an owner that has a place in the map"


def _oom_score(view: View, step: Step) -> Verdict:
    op: Any = step.op
    return _same(int(view.read("oom_score_adj")), op.value)


# --- checks: who it is ------------------------------------------------------------------------------------


def _session(view: View, _step: Step) -> Verdict:
    own = view.read("stat").rpartition(")")[2].split()[3]
    callers = calls.read_file("/proc/self/stat").rpartition(")")[2].split()[3]
    if own in (callers, "0") and own != str(view.pid):
        return MISSING, f"session {own} is not its own"
    return HELD, f"session {own}"


def _in_group(view: View, step: Step) -> Verdict:
    op: Any = step.op
    name = op.name.removeprefix("cgroup.").split("+")
    for line in view.read("cgroup").splitlines():
        _number, controllers, path = line.split(":", 2)
        plain = [one.removeprefix("name=") for one in controllers.split(",")]
        if plain == name:
            inside = path.endswith(f"/minibox-{view.spec.id}")
            return (HELD, path) if inside else (MISSING, f"it is in {path}")
    return MISSING, f"no hierarchy {op.name}"


def _unshared(view: View, step: Step) -> Verdict:
    op: Any = step.op
    found = view.namespace(op.kind)
    if found == view.namespace(op.kind, "self"):
        return MISSING, f"{found} is the host's"
    return HELD, found


def _time_offsets(view: View, step: Step) -> Verdict:
    op: Any = step.op
    found = {}
    for line in view.read("timens_offsets").splitlines():
        clock, seconds, nanoseconds = line.split()
        found[clock] = (int(seconds), int(nanoseconds))
    wrong = [name for name, seconds, nano in op.offsets if found.get(name) != (seconds, nano)]
    return (MISSING, f"not set: {' '.join(wrong)}") if wrong else (HELD, str(found))


def _time_namespace(view: View, _step: Step) -> Verdict:
    found = os.readlink(f"/proc/{view.pid}/ns/time")
    return (
        (MISSING, f"{found} is the host's") if found == os.readlink("/proc/self/ns/time") else (HELD, found)
    )


def _hostname(view: View, step: Step) -> Verdict:
    op: Any = step.op
    return _same(view.inside()["hostname"], op.name)


def _domainname(view: View, step: Step) -> Verdict:
    op: Any = step.op
    return _same(view.inside()["domainname"], op.name)


def _link(view: View, step: Step) -> Verdict:
    """An interface that is up has its address among the local ones."""
    local = view.read("net/fib_trie") if os.path.exists(f"/proc/{view.pid}/net/fib_trie") else ""
    return (
        (HELD, "127.0.0.1 is local") if "127.0.0.1" in local else (MISSING, "lo has no address: it is down")
    )


def _sysctl(view: View, step: Step) -> Verdict:
    op: Any = step.op
    found = view.inside()["sysctls"][op.name]
    return _same(" ".join(found.split()), " ".join(op.value.split()))


# --- checks: what it sees ----------------------------------------------------------------------------------


def _private(view: View, _step: Step) -> Verdict:
    wanted = {mount.destination for mount in view.spec.mounts if "private" not in mount.propagation}
    shared = [
        entry.mountpoint
        for entry in view.all_mounts()
        if entry.propagation and not any(entry.mountpoint.startswith(place) for place in wanted)
    ]
    return (MISSING, f"not private: {' '.join(shared)}") if shared else (HELD, "every mount is private")


def _root_mount(view: View, step: Step) -> Verdict:
    op: Any = step.op
    verdict = _flags(view.mount("/"), op.attributes, "/")
    entry = view.mount("/")
    if (
        verdict[0] == HELD
        and isinstance(op, ops.MountOverlay)
        and entry is not None
        and entry.kind != "overlay"
    ):
        return MISSING, f"the root is {entry.kind}, not an overlay"
    return verdict


def _proc(view: View, step: Step) -> Verdict:
    entry = view.mount("/proc")
    if entry is None or entry.kind != "proc":
        return MISSING, "/proc is no procfs"
    return HELD, "procfs"


def _file_system(view: View, step: Step) -> Verdict:
    op: Any = step.op
    entry = view.mount(op.destination)
    verdict = _flags(entry, op.attributes, op.destination)
    if verdict[0] != HELD or entry is None:
        return verdict
    if entry.kind != op.kind:
        return MISSING, f"{op.destination} is {entry.kind}, not {op.kind}"
    for option in op.options:
        name, _, value = option.partition("=")
        if name in ("size", "nr_inodes", "mode") and not _has_option(entry, name, value):
            return MISSING, f"{op.destination} has no {option}"
    return verdict


def _has_option(entry: MountEntry, name: str, value: str) -> bool:
    shown = dict(option.partition("=")[::2] for option in entry.super_options)
    found = shown.get(name, "")
    if name == "mode":
        return int(found or "1777" if entry.kind == "tmpfs" else found or "0", 8) == int(value, 8)
    return _bytes(found) == _bytes(value)


def _bytes(text: str) -> int:
    digits = text.rstrip("kmg")
    return int(digits or "0") << {"k": 10, "m": 20, "g": 30}.get(text[len(digits) :], 0)


def _cgroup_mounts(view: View, step: Step) -> Verdict:
    op: Any = step.op
    for controllers in op.hierarchies:
        place = f"{op.destination}/{','.join(name.removeprefix('name=') for name in controllers)}"
        verdict = _flags(view.mount(place), op.attributes, place)
        if verdict[0] != HELD:
            return verdict
    return _flags(view.mount(op.destination), op.attributes, op.destination)


def _bound(view: View, step: Step) -> Verdict:
    op: Any = step.op
    place = op.destination
    verdict = _flags(view.mount(place), op.attributes + op.recursive, place)
    if verdict[0] != HELD:
        return verdict
    for entry in view.all_mounts():
        if entry.mountpoint.startswith(place + "/"):
            below = _flags(entry, op.recursive, entry.mountpoint)
            if below[0] != HELD:
                return below
    return verdict


def _device(view: View, step: Step) -> Verdict:
    op: Any = step.op
    status = os.stat(view.path(f"/dev/{op.name}"), follow_symlinks=False)
    found = (os.major(status.st_rdev), os.minor(status.st_rdev))
    if not stat.S_ISCHR(status.st_mode):
        return MISSING, "not a device"
    return _same(found, ops.DEVICE_NUMBERS[op.name])


def _node(view: View, step: Step) -> Verdict:
    op: Any = step.op
    wanted = next(one.data[0] for one in view.spec.mounts if one.destination == op.destination)
    status = os.stat(view.path(op.destination), follow_symlinks=False)
    kind = "b" if stat.S_ISBLK(status.st_mode) else "c" if stat.S_ISCHR(status.st_mode) else "-"
    return _same(f"{kind} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}", wanted)


def _device_link(view: View, step: Step) -> Verdict:
    op: Any = step.op
    return _same(os.readlink(view.path(f"/dev/{op.name}")), op.target)


def _console(view: View, step: Step) -> Verdict:
    entry = view.mount("/dev/console")
    if entry is None or entry.kind != "devpts":
        return MISSING, "/dev/console is no terminal of its own"
    return HELD, "a pty of its own devpts"


def _masked(view: View, step: Step) -> Verdict:
    op: Any = step.op
    entry = view.mount(op.path)
    if entry is None:
        if not os.path.lexists(view.path(op.path)):
            return HELD, "this kernel has no such path"
        return MISSING, f"{op.path} is not masked"
    if entry.kind != "tmpfs" or not entry.root.endswith(("/blank", "/empty")):
        return MISSING, f"{op.path} shows a {entry.kind}"
    return _flags(entry, ("ro",), op.path)


def _readonly(view: View, step: Step) -> Verdict:
    op: Any = step.op
    if view.mount(op.path) is None and not os.path.lexists(view.path(op.path)):
        return HELD, "this kernel has no such path"
    return _flags(view.mount(op.path), ("ro",), op.path)


def _readonly_root(view: View, _step: Step) -> Verdict:
    return _flags(view.mount("/"), ("ro",), "/")


def _pivoted(view: View, _step: Step) -> Verdict:
    """Whatever is mounted has to be something that the Plan mounts; a staging tmpfs, or the host's root,
    would be something else."""
    planned = {"/"} | {mount.destination for mount in view.spec.mounts}
    planned |= {f"/dev/{name}" for name in (*ops.DEVICE_NUMBERS, "console")}
    planned |= set(view.spec.masked_paths) | set(view.spec.readonly_paths)
    foreign = [
        entry.mountpoint
        for entry in view.all_mounts()
        if entry.mountpoint not in planned and not _is_below_bind(view, entry.mountpoint)
    ]
    if foreign:
        return MISSING, f"mounts that the Plan does not have: {' '.join(foreign[:5])}"
    return HELD, f"{len(view.all_mounts())} mounts, all of the Plan"


def _is_below_bind(view: View, place: str) -> bool:
    tops = [mount.destination for mount in view.spec.mounts if mount.kind in ("bind", "cgroup", "proc")]
    return any(place.startswith(top + "/") for top in tops)


# --- checks: what it may do ---------------------------------------------------------------------------------


LIMIT_NAMES = {
    "CPU": "Max cpu time", "FSIZE": "Max file size", "DATA": "Max data size", "STACK": "Max stack size",
    "CORE": "Max core file size", "RSS": "Max resident set", "NPROC": "Max processes",
    "NOFILE": "Max open files", "MEMLOCK": "Max locked memory", "AS": "Max address space",
    "LOCKS": "Max file locks", "SIGPENDING": "Max pending signals", "MSGQUEUE": "Max msgqueue size",
    "NICE": "Max nice priority", "RTPRIO": "Max realtime priority", "RTTIME": "Max realtime timeout",
}  # fmt: skip


def _rlimit(view: View, step: Step) -> Verdict:
    op: Any = step.op
    for line in view.read("limits").splitlines():
        if line.startswith(LIMIT_NAMES[op.kind]):
            found = tuple(line[len(LIMIT_NAMES[op.kind]) :].split()[:2])
            names = ("unlimited" if one == c.RLIM_INFINITY else str(one) for one in (op.soft, op.hard))
            return _same(found, tuple(names))
    return MISSING, f"/proc/PID/limits has no {op.kind}"


def _umask(view: View, step: Step) -> Verdict:
    op: Any = step.op
    return _same(int(view.status(view.pid)["Umask"], 8), op.mask)


def _directory(view: View, step: Step) -> Verdict:
    op: Any = step.op
    found = os.readlink(f"/proc/{view.pid}/cwd")
    if found == op.path:
        return HELD, found
    return UNOBSERVABLE, f"the payload may have moved on: {found}"


def _ids(view: View, _step: Step) -> Verdict:
    """By the user that was asked for, where that is a number; the payload may change it afterwards."""
    status = view.status(view.pid)
    uid = int(status["Uid"].split()[0])
    wanted = view.spec.process.user.partition(":")[0]
    lines = idmap.lines(view.spec.uid_maps)
    if not wanted.isdigit():
        return UNOBSERVABLE, f'"{wanted}" is a name of the container\'s own files'
    outside = idmap.to_host(lines, int(wanted)) if lines else int(wanted)
    return _same(uid, outside)


def _terminal(view: View, step: Step) -> Verdict:
    number = int(view.read("stat").rpartition(")")[2].split()[4])
    return (HELD, "it has a terminal") if number else (MISSING, "no controlling terminal")


def _bounding(view: View, step: Step) -> Verdict:
    op: Any = step.op
    known = (1 << (op.last + 1)) - 1
    wider = [bits for text in view.every_status("CapBnd") if (bits := _mask(text) & ~op.keep & known)]
    if wider:
        return MISSING, f"in a bounding set: {' '.join(caps.names(wider[0]))}"
    return HELD, f"{op.keep:#x} in {len(view.processes)} processes"


def _capabilities(view: View, step: Step) -> Verdict:
    op: Any = step.op
    for name, most in (("CapPrm", op.permitted), ("CapEff", op.effective), ("CapInh", op.inheritable)):
        more = [bits for text in view.every_status(name) if (bits := _mask(text) & ~most)]
        if more:
            return MISSING, f"{name} has more: {' '.join(caps.names(more[0]))}"
    return HELD, f"at most {op.permitted:#x} in {len(view.processes)} processes"


def _ambient(view: View, step: Step) -> Verdict:
    op: Any = step.op
    return _same(_mask(view.status(view.pid)["CapAmb"]), op.mask)


def _no_new_privs(view: View, _step: Step) -> Verdict:
    values = set(view.every_status("NoNewPrivs"))
    return (
        (HELD, f"{len(view.processes)} processes") if values == {"1"} else (MISSING, f"NoNewPrivs {values}")
    )


def _descriptors(view: View, step: Step) -> Verdict:
    """Files that the payload itself may have opened lie on its own mounts; a leaked one does not."""
    op: Any = step.op
    known = {line.split(" ", 1)[0] for line in view.read("mountinfo").splitlines()}
    leaked = []
    for name in os.listdir(f"/proc/{view.pid}/fd"):
        if int(name) < op.first:
            continue
        target = os.readlink(f"/proc/{view.pid}/fd/{name}")
        info = view.read(f"fdinfo/{name}")
        mount = next((line.split()[1] for line in info.splitlines() if line.startswith("mnt_id:")), "")
        if target.startswith("/") and mount not in known:
            leaked.append(f"{name} -> {target}")
    return (MISSING, f"of the host: {', '.join(leaked)}") if leaked else (HELD, "none of the host's is open")


def _seccomp(view: View, _step: Step) -> Verdict:
    modes = set(view.every_status("Seccomp"))
    if modes != {"2"}:
        return MISSING, f"seccomp mode {' '.join(sorted(modes))}, not 2 (filter)"
    everywhere = f"in {len(view.processes)} processes"
    try:
        found = filters.read(view.pid)
    except KernelError as error:
        return HELD, f"a filter {everywhere}; which one is not shown to this user ({error.strerror})"
    wanted = _wanted_filter(view)
    if wanted in found:
        return HELD, f"the very filter, {len(wanted) // 8} instructions, {everywhere}"
    return _compare_filters(wanted, found)


def _wanted_filter(view: View) -> bytes:
    """The filter of the Spec, made again as `run` made it."""
    spec, host = view.spec, view.host
    kept = [step.op.keep for step in view.plan if isinstance(step.op, ops.DropBounding)]
    return prepare.compiled(spec, host, kept[0] if kept else 0)


def _compare_filters(wanted: bytes, found: tuple[bytes, ...]) -> Verdict:
    """What differs, by asking both for every number: what the kernel does is the strictest of its filters."""
    from minibox.seccomp import decode, profile, syscalls

    arch = decode.AUDIT_ARCH_X86_64 if os.uname().machine == "x86_64" else decode.AUDIT_ARCH_AARCH64
    laxer = []
    for number in range(600):
        asked, _data = decode.evaluate(wanted, arch, number)
        actions = [decode.evaluate(one, arch, number)[0] for one in found]
        strictest = min((profile.strictness(one) for one in actions), default=2**31)
        if strictest > profile.strictness(asked):
            laxer.append(syscalls.name(os.uname().machine, number) or str(number))
    if laxer:
        return MISSING, f"let through and not to be: {' '.join(laxer[:8])} ({len(laxer)} in all)"
    return HELD, "another filter, at least as strict for every system call"


def _executed(view: View, step: Step) -> Verdict:
    words = view.read("cmdline").split("\0")
    return HELD, f"running {' '.join(words).strip() or '(nothing)'}"


TRANSIENT = "a descriptor that is closed by now; the mount that was made with it is checked"
CHECKS: dict[type[ops.Op], Callable[[View, Step], Verdict]] = {
    ops.MakeLayer: _layer,
    ops.CopyRoot: _copied,
    ops.CgroupCreate: _group,
    ops.CgroupWrite: _group_value,
    ops.CgroupWriteEither: _group_value,
    ops.LimitSwap: _group_value,
    ops.AllowDevices: _devices,
    ops.FilterDevices: _devices,
    ops.OpenDevice: _over(TRANSIENT),
    ops.NewNodes: _over(TRANSIENT),
    ops.MakeNode: _over(TRANSIENT),
    ops.BindNode: _node,
    ops.CgroupInherit: _inherited,
    ops.OpenFile: _over(TRANSIENT),
    ops.OpenTree: _over(TRANSIENT),
    ops.OpenProc: _over(TRANSIENT),
    ops.OpenRoot: _over(TRANSIENT),
    ops.JoinNamespace: _joined,
    ops.Clone: _namespaces,
    ops.DenySetgroups: _setgroups,
    ops.WriteIdMap: _id_map,
    ops.IdmapTree: _idmapped,
    ops.SetOomScore: _oom_score,
    ops.OwnStreams: _over("the pipes may be closed by now"),
    ops.Release: _over("a rendezvous that is past"),
    ops.Await: _over("a rendezvous that is past"),
    ops.NewSession: _session,
    ops.BecomeRoot: _over("a later step sets the ids again"),
    ops.SetDumpable: _over("execve made the process dumpable again"),
    ops.EnterCgroup: _in_group,
    ops.Unshare: _unshared,
    ops.SetTimeOffsets: _time_offsets,
    ops.EnterTimeNamespace: _time_namespace,
    ops.SetHostname: _hostname,
    ops.SetDomainname: _domainname,
    ops.LinkUp: _link,
    ops.JoinKeyring: _over("only the process itself may name its session keyring: keyctl(2)"),
    ops.SetPropagation: _private,
    ops.MountStaging: _over("the staging tmpfs went with the old root; its files are what masks show"),
    ops.AttachTree: _over("a layer of the overlay, which is checked"),
    ops.MountOverlay: _root_mount,
    ops.AttachRoot: _root_mount,
    ops.AttachProc: _proc,
    ops.MountFs: _file_system,
    ops.MountCgroups: _cgroup_mounts,
    ops.Bind: _bound,
    ops.BindDevice: _device,
    ops.LinkDevice: _device_link,
    ops.OpenTerminal: _console,
    ops.MaskPath: _masked,
    ops.ReadonlyPath: _readonly,
    ops.ReadonlyRoot: _readonly_root,
    ops.PivotRoot: _pivoted,
    ops.SetSysctl: _sysctl,
    ops.SetRlimit: _rlimit,
    ops.SetUmask: _umask,
    ops.ResolveUser: _over("checked with the ids"),
    ops.ChangeDirectory: _directory,
    ops.UseTerminal: _terminal,
    ops.DropBounding: _bounding,
    ops.KeepCapabilities: _over("execve clears it"),
    ops.SetIds: _ids,
    ops.SetCapabilities: _capabilities,
    ops.RaiseAmbient: _ambient,
    ops.SetDeathSignal: _over("only the process itself may ask for it: prctl(2)"),
    ops.PrepareProgram: _over("memory of the process before execve"),
    ops.TraceMe: _over("the stop at execve is over"),
    ops.SetNoNewPrivs: _no_new_privs,
    ops.CloseDescriptors: _descriptors,
    ops.LoadSeccomp: _seccomp,
    ops.Execute: _executed,
}
