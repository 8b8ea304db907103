"""From what was asked to a Plan: the facts that a Spec leaves open are looked up here, once.

Which directory ROOTFS is and whether it is a root at all; what "container:ID" stands for now; which
ids the container's are.  After this nothing is looked up any more: compile() is pure.
"""

from __future__ import annotations

import os

from minibox.errors import KernelError, SpecError
from minibox.kernel import calls, host, idmap
from minibox.kernel import consts as c
from minibox.kernel.idmap import IdMap
from minibox.plan import ops
from minibox.plan.compile import compile, compile_exec
from minibox.record import Record
from minibox.runtime import live
from minibox.seccomp import cache
from minibox.spec import from_flags, validate
from minibox.store import ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.kernel.host import Host
    from minibox.plan.context import Context
    from minibox.plan.model import Plan
    from minibox.seccomp.notify import Handler
    from minibox.spec.from_flags import Options
    from minibox.spec.model import Spec
    from minibox.store.state import Store

#: what a root file system has at least one of
ROOT_MARKS = ("bin", "sbin", "usr/bin", "lib")
#: namespaces that belong to a user namespace, and can be shared only together with it
OWNED = ("pid", "net", "ipc", "uts", "cgroup", "time")


class Prepared(Record):
    """All that a run needs: what was asked, what the host is, what will be done."""

    spec: Spec
    host: Host
    plan: Plan
    slot: int = -1  # of the id range, when one was reserved


def container(
    store: Store, container_id: str, rootfs: str, argv: tuple[str, ...], options: Options, *, reserve: bool
) -> Prepared:
    """Everything for a new container.  `reserve` takes an id range, for which the caller holds the
    store's lock; without it the range is the one that would be next.  Raises MiniboxError."""
    check_root(rootfs, argv)
    options, notes = _share_user_namespace(options)
    if options.get("userns") == "keep-id" and "user" not in options:
        options = {**options, "user": f"{os.geteuid()}:{os.getegid()}"}
    spec = from_flags.build(container_id, rootfs, argv, options)
    spec = _resolve_namespaces(store, spec)
    facts = host.probe(spec.root.path, store.data)
    if spec.userns == "host" and not facts.is_root:
        raise SpecError(
            "--userns", "host is for root: an ordinary user has rights in a namespace of its own only"
        )
    slot = -1
    if spec.is_new("user") and not spec.uid_maps:
        spec, slot, more = _allocate(store, spec, facts, reserve=reserve)
        notes += more
    try:
        plan = compile(validate.check(spec), facts)
    except BaseException:
        if slot >= 0 and reserve:
            ids.release(store.run, container_id, slot)
        raise
    notes += _volume_notes(spec)
    return Prepared(spec=spec, host=facts, plan=plan.replace(notes=tuple(notes) + plan.notes), slot=slot)


def command(store: Store, spec: Spec, pid: int, groups: tuple[str, ...]) -> Prepared:
    """Everything for one more command in a running container, whose PID 1 is `pid` here and whose cgroups
    are the directories `groups`."""
    facts = host.probe("", store.data)
    plan = compile_exec(validate.check(spec), facts, pid, groups)
    return Prepared(spec=spec, host=facts, plan=plan)


def load_filter(prepared: Prepared, ctx: Context, handler: Handler | None = None) -> tuple[str, ...]:
    """Put the compiled seccomp filter where the Plan's step looks for it, and who answers what it notifies of
    (`handler` for the Spec's own calls); what it lacks, as notes."""
    operations = [step.op for step in prepared.plan]
    loads = [op for op in operations if isinstance(op, ops.LoadSeccomp)]
    if not loads:
        return ()
    kept = [op.keep for op in operations if isinstance(op, ops.DropBounding)]
    facts, spec = prepared.host, prepared.spec
    capabilities = kept[0] if kept else 0
    found = _filter(spec, facts, capabilities)
    bpf, flags = found.bpf, found.flags
    if flags & c.SECCOMP_FILTER_FLAG_NEW_LISTENER or spec.show_denials:
        from minibox.runtime import listener

        asked = (bpf, flags, found.listener)
        ctx.listener, bpf, flags = listener.make(spec, facts, capabilities, asked, handler)
        ctx.listener_by_thread = ctx.listener is not None and ctx.listener.by_thread
    if not flags & c.SECCOMP_FILTER_FLAG_NEW_LISTENER:  # EINVAL, where nothing is ever received
        flags &= ~c.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    ctx.filters = {loads[0].profile: (bpf, flags)}
    return tuple(f"seccomp: {warning}" for warning in found.warnings)


def _filter(spec: Spec, facts: Host, capabilities: int) -> cache.Filter:
    """The compiled profile of a Spec, its own calls to notify of included.  Raises SpecError."""
    profile = spec.seccomp
    if spec.seccomp_notify:
        from minibox.runtime import listener

        profile = listener.document(spec)
    try:
        return cache.load(
            profile,
            capabilities=capabilities,
            arch=facts.machine,
            release=".".join(map(str, facts.release)),
            cache_dir=cache_directory(),
        )
    except SpecError as error:
        raise SpecError("--seccomp", str(error)) from None


def compiled(spec: Spec, facts: Host, capabilities: int) -> bytes:
    """The filter that a container of this Spec has: what `load_filter` gives its Plan's step."""
    bpf = _filter(spec, facts, capabilities).bpf
    if spec.show_denials:
        from minibox.seccomp import denials

        bpf = denials.variant(bpf, everything=spec.show_denials == "all")
    return bpf


def cache_directory() -> str:
    """Where compiled filters are kept: root's own, or the user's."""
    if os.geteuid() == 0:
        return "/var/cache/minibox"
    base = os.environ.get("XDG_CACHE_HOME", "")
    return f"{base if base.startswith('/') else os.path.expanduser('~/.cache')}/minibox"


def check_root(rootfs: str, argv: tuple[str, ...]) -> None:
    """Refuse what is not the directory of a root file system.  Raises SpecError."""
    try:
        fd = calls.openat(c.AT_FDCWD, rootfs, os.O_RDONLY | os.O_DIRECTORY)
    except KernelError as error:
        reasons = {2: "does not exist", 20: "is not a directory", 13: "may not be read by this user"}
        reason = reasons.get(error.errno or 0, os.strerror(error.errno or 0))
        raise SpecError("ROOTFS", f"{rootfs} {reason}") from None
    try:
        if argv and argv[0].startswith("/") and _exists(fd, argv[0].lstrip("/")):
            return
        if not any(_exists(fd, name) for name in ROOT_MARKS):
            raise SpecError(
                "ROOTFS",
                f"{rootfs} is not a root file system (it has no {', '.join(ROOT_MARKS)}); "
                f"scripts/build-rootfs {rootfs} makes one there",
            )
    finally:
        os.close(fd)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


# --- namespaces of others ------------------------------------------------------------------------


def _share_user_namespace(options: Options) -> tuple[Options, list[str]]:
    """Sharing a namespace of a container means sharing the user namespace that owns it: nobody else
    has rights over it (docker does the same under --userns-remap)."""
    shared = [options.get(name, "") for name in ("pid", "network", "ipc", "uts", "cgroupns", "mntns")]
    others = sorted({value for value in shared if value.startswith("container:") and value[10:]})
    if not others or options.get("userns"):
        return options, []
    if len(others) > 1:
        raise SpecError(
            "--userns", f"{' and '.join(others)} have different user namespaces: name one of them"
        )
    return {**options, "userns": others[0]}, [f"the user namespace is shared too: {others[0]}"]


def _resolve_namespaces(store: Store, spec: Spec) -> Spec:
    """Files of namespaces instead of "container:ID", and the maps of a user namespace that is joined."""
    found = []
    for one in spec.namespaces:
        path = one.path
        if path.startswith("container:"):
            name = store.find(path.removeprefix("container:"))
            pid = live.running_pid(store.read(name))
            path = f"/proc/{pid}/ns/{c.NAMESPACES[one.kind][1]}"
        if path not in ("", "host"):
            try:
                os.stat(path)
            except OSError as error:
                flag = "--" + from_flags.NAMESPACE_FLAGS.get(one.kind, one.kind)
                raise SpecError(flag, f"{path}: {error.strerror}") from None
        found.append(one.replace(path=path))
    spec = spec.replace(namespaces=tuple(found))
    if spec.userns != "join":
        return spec
    uid_maps, gid_maps = live.maps_of(spec.namespace("user").path)
    return spec.replace(uid_maps=uid_maps, gid_maps=gid_maps)


# --- ids -------------------------------------------------------------------------------------------


def _allocate(store: Store, spec: Spec, facts: Host, *, reserve: bool) -> tuple[Spec, int, list[str]]:
    """The id maps of a new user namespace; (spec, slot or -1, notes)."""
    if facts.is_root:
        if spec.userns == "keep-id":
            raise SpecError("--userns", "keep-id would give the container root's own id: see --userns host")
        slot, first = (ids.reserve if reserve else lambda run, _id: ids.peek(run))(store.run, spec.id)
        maps = (IdMap(inside=0, outside=first, size=ids.RANGE),)
        return spec.replace(uid_maps=maps, gid_maps=maps), slot, []
    notes = []
    ranges = bool(facts.subuid and facts.subgid)
    if ranges and not (facts.newuidmap and facts.newgidmap):
        notes.append("newuidmap is missing (Debian: uidmap), so the container has a single id")
        ranges = False
    keep = spec.userns == "keep-id"
    return (
        spec.replace(
            uid_maps=_user_maps(facts.euid, facts.subuid if ranges else (), keep=keep),
            gid_maps=_user_maps(facts.egid, facts.subgid if ranges else (), keep=keep),
        ),
        -1,
        notes,
    )


def _user_maps(own: int, ranges: tuple[tuple[int, int], ...], *, keep: bool) -> tuple[IdMap, ...]:
    """An ordinary user's map: root inside is the user (with `keep`, the user's own id is), the others
    come from the subordinate range, where there is one."""
    inside = own if keep else 0
    maps = [IdMap(inside=inside, outside=own, size=1)]
    if ranges:
        first, count = ranges[0]
        below = min(inside, count)
        if below:
            maps.append(IdMap(inside=0, outside=first, size=below))
        if count > below:
            maps.append(IdMap(inside=inside + 1, outside=first + below, size=count - below))
    return tuple(sorted(maps, key=lambda one: one.inside))


def _volume_notes(spec: Spec) -> list[str]:
    """Where the container's root will be refused a write that somebody may expect to work."""
    lines = idmap.lines(spec.uid_maps)
    notes = []
    for mount in spec.mounts:
        if mount.kind != "bind" or mount.idmap or "ro" in mount.attributes or not lines:
            continue
        if mount.source.startswith(("/sys", "/dev")) or any(
            o <= mount.owner[0] < o + n for _i, o, n in lines
        ):
            continue
        mode = os.stat(mount.source).st_mode
        if not mode & 0o002:
            notes.append(
                f"{mount.source} belongs to uid {mount.owner[0]}, who is nobody in the container: it may not "
                f"write there; -v {mount.source}:{mount.destination}:idmap shows it as its root's"
            )
    return notes
