"""Flags to Spec: what `minibox run` and `minibox.run()` are asked for, in one place.

`options` is a dict of option names (with underscores) to text, a list of texts for repeatable
ones, or True: what the command line's reader gives, and what the library makes of its keywords.
"""

from __future__ import annotations

import os

from minibox import fastjson
from minibox.errors import KernelError, SpecError
from minibox.kernel import calls, caps, idmap
from minibox.spec import defaults, values
from minibox.spec.model import (
    Capabilities,
    Mount,
    Namespace,
    Process,
    Resources,
    Rlimit,
    Root,
    Spec,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Options = Mapping[str, Any]

ALL_STREAMS = (0, 1, 2)
#: limits that few ask for, read by spec/limits.py
RARE_LIMITS = frozenset(
    (
        "memory_reservation", "memory_swappiness", "oom_kill_disable", "check_before_update", "cpu_quota",
        "cpu_period", "cpu_burst", "cpu_idle", "cpu_rt_runtime", "cpu_rt_period", "cpuset_mems",
        "blkio_weight", "blkio_weight_device", "device_read_bps", "device_write_bps", "device_read_iops",
        "device_write_iops", "hugetlb", "net_classid", "net_prio", "rdma", "cgroup_conf", "device",
        "device_cgroup_rule",
    )
)  # fmt: skip
#: kinds of namespaces whose flags have another name
NAMESPACE_FLAGS = {
    "net": "network",
    "cgroup": "cgroupns",
    "mount": "mntns",
    "user": "userns",
    "time": "timens",
}


def build(container_id: str, rootfs: str, argv: tuple[str, ...], options: Options) -> Spec:
    """The Spec of a command line.  Raises SpecError, its pointer the flag."""
    privileged = bool(options.get("privileged"))
    namespaces = _namespaces(options)
    spec = Spec(
        id=container_id,
        root=_root(rootfs, options),
        process=_process(argv, options, privileged),
        namespaces=namespaces,
        mounts=(),
        userns=_userns(options),
        uid_maps=_maps(options, "uidmap", "gidmap"),
        gid_maps=_maps(options, "gidmap", "uidmap"),
        hostname=options.get("hostname", ""),
        domainname=options.get("domainname", ""),
        resources=resources(options),
        cgroup_parent=_cgroup_parent(options),
        seccomp=_seccomp(options, privileged),
        show_denials=_show_denials(options),
        **_notify(options),
        masked_paths=() if privileged else defaults.masked_paths(os.cpu_count() or 1),
        readonly_paths=() if privileged else defaults.READONLY_PATHS,
        sysctls=tuple(values.pair(text, "--sysctl") for text in options.get("sysctl", ())),
        time_offsets=_time_offsets(options),
        annotations=tuple(values.pair(text, "--annotation") for text in options.get("annotation", ())),
        privileged=privileged,
        init=_init(options.get("init")),
        preserve_fds=preserved(options),
        stop_at_exec=bool(options.get("verify")),
    )
    if not spec.hostname and spec.is_new("uts"):
        spec = spec.replace(hostname=spec.id[:63])
    if not spec.is_new("mount"):
        return _shared_mounts(spec, options)
    standard = defaults.mounts(
        own_network=_mountable(spec, "net"), own_ipc=_mountable(spec, "ipc"), privileged=privileged
    )
    # A namespace shared with a host that shows no file system for it (no /dev/mqueue) shows none either.
    standard = tuple(one for one in standard if one.kind != "bind" or os.path.exists(one.source))
    return spec.replace(mounts=standard + _mounts(options))


def _mountable(spec: Spec, kind: str) -> bool:
    """Whether the file system of a namespace (sysfs, mqueue) can be mounted anew: by its owner only.

    The container owns its new namespaces, and those of another container whose user namespace it
    shares; without a user namespace of its own it owns the host's.
    """
    path = spec.namespace(kind).path
    return path == "" or path.startswith("container:") or spec.userns == "host"


def _root(rootfs: str, options: Options) -> Root:
    path = os.path.abspath(rootfs)
    return Root(
        path=path,
        layer="direct" if options.get("writable") else "overlay",
        readonly=bool(options.get("read_only")),
    )


def preserved(options: Options) -> int:
    """How many descriptors from 3 on are handed on to the payload."""
    return values.integer(options.get("preserve_fds", "0"), "--preserve-fds", 0, 1 << 16)


def _init(value: Any) -> str:
    return value if isinstance(value, str) else "run" if value else ""


# --- the process -------------------------------------------------------------------------------


def _process(argv: tuple[str, ...], options: Options, privileged: bool) -> Process:
    score = options.get("oom_score_adj")
    return Process(
        argv=argv or defaults.COMMAND,
        capabilities=_capabilities(options, privileged),
        env=_entries(_env(options)),
        cwd=options.get("workdir", "/"),
        user=options.get("user", "0"),
        groups=tuple(options.get("group_add", ())),
        terminal=tuple(options.get("terminal", ())),
        rlimits=_rlimits(options),
        no_new_privs=not options.get("allow_new_privs", False),
        umask=_octal(options.get("umask", "0022"), "--umask"),
        oom_score_adj=None if score is None else values.integer(score, "--oom-score-adj", -1000, 1000),
    )


def _octal(text: str, pointer: str) -> int:
    if not text or any(digit not in "01234567" for digit in text) or int(text, 8) > 0o777:
        raise SpecError(pointer, f'"{text}" is no octal number up to 0777')
    return int(text, 8)


def _capabilities(options: Options, privileged: bool) -> Capabilities:
    bits = caps.ALL if privileged else defaults.CAPABILITIES
    drop = list(options.get("cap_drop", ()))
    if any(name.upper() == "ALL" for name in drop):  # ALL first, so that --cap-add names what is left
        bits = 0
    add = caps.mask(options.get("cap_add", ()), "--cap-add")
    dropped = caps.mask((name for name in drop if name.upper() != "ALL"), "--cap-drop")
    bits = (bits | add) & ~dropped
    ambient = caps.mask(options.get("cap_ambient", ()), "--cap-ambient")
    if ambient & ~bits:
        missing = " ".join(caps.names(ambient & ~bits))
        raise SpecError("--cap-ambient", f"{missing}: an ambient capability must be permitted too")
    return defaults.capabilities(bits, ambient)


def _env(options: Options) -> dict[str, str]:
    """The variables that are asked for, by name."""
    found: dict[str, str] = {}
    if options.get("terminal"):
        found["TERM"] = os.environ.get("TERM", "xterm")
    for path in options.get("env_file", ()):
        for pointer, text in _env_lines(path):
            _add_env(found, text, pointer)
    for text in options.get("env", ()):
        _add_env(found, text, "--env")
    return found


def _entries(*layers: dict[str, str]) -> tuple[str, ...]:
    """The lines of an environment: the defaults, changed by each of `layers` in turn."""
    found: dict[str, str] = dict(entry.split("=", 1) for entry in defaults.ENV)
    for layer in layers:
        found.update(layer)
    return tuple(f"{name}={value}" for name, value in found.items())


def _add_env(found: dict[str, str], text: str, pointer: str) -> None:
    name, equals, value = text.partition("=")
    if not name or any(ch.isspace() or ch == "\0" for ch in name) or "\0" in value:
        raise SpecError(pointer, f'"{text}" is not NAME=VALUE, nor the NAME of a variable to pass on')
    if equals:
        found[name] = value
    elif name in os.environ:
        found[name] = os.environ[name]


def _env_lines(path: str) -> list[tuple[str, str]]:
    try:
        text = calls.read_file(path)
    except KernelError as error:
        raise SpecError("--env-file", f"{path}: {error.strerror}") from None
    lines = enumerate((line.removesuffix("\r") for line in text.split("\n")), 1)
    return [
        (f"{path}:{number}", line.lstrip())
        for number, line in lines
        if line.strip() and not line.lstrip().startswith("#")
    ]


def _rlimits(options: Options) -> tuple[Rlimit, ...]:
    limits = {one.kind: one for one in defaults.RLIMITS}
    for text in options.get("ulimit", ()):
        one = values.rlimit(text, "--ulimit")
        limits[one.kind] = one
    return tuple(limits.values())


# --- namespaces and ids ------------------------------------------------------------------------


def _namespaces(options: Options) -> tuple[Namespace, ...]:
    found = []
    for kind in defaults.NEW_NAMESPACES:
        name = NAMESPACE_FLAGS.get(kind, kind)
        found.append(Namespace(kind=kind, path=_place(options.get(name, ""), kind, "--" + name)))
    if "timens" in options:
        found.append(Namespace(kind="time", path=_place(options["timens"], "time", "--timens")))
    elif options.get("time_offset"):
        found.append(Namespace(kind="time"))
    return tuple(found)


def _place(value: str, kind: str, pointer: str) -> str:
    own = {"net": ("", "new", "none"), "user": ("", "new", "auto", "keep-id")}
    if value in own.get(kind, ("", "new", "private")):
        return ""
    if value == "host" or (value.startswith("container:") and len(value) > 10):
        return value
    path = value.removeprefix("ns:")
    if path.startswith("/"):
        return path
    raise SpecError(pointer, f'"{value}" is not new, host, container:ID or ns:/PATH')


def _userns(options: Options) -> str:
    value = options.get("userns", "")
    explicit = bool(options.get("uidmap") or options.get("gidmap"))
    if explicit and value not in ("", "new", "auto"):
        raise SpecError("--uidmap", f"maps are for a new user namespace, not for --userns {value}")
    if explicit:
        return "explicit"
    if value in ("", "new", "auto"):
        return "auto"
    return value if value in ("host", "keep-id") else "join"


def _maps(options: Options, flag: str, other: str) -> tuple[idmap.IdMap, ...]:
    given = flag if options.get(flag) else other
    maps = tuple(idmap.parse(text, "--" + given) for text in options.get(given, ()))
    idmap.check(maps, "--" + given)
    return maps


def _time_offsets(options: Options) -> tuple[tuple[str, int, int], ...]:
    offsets: dict[
        str, tuple[str, int, int]
    ] = {}  # of one clock the last counts: the kernel takes one line each
    for text in options.get("time_offset", ()):
        clock, equals, number = text.partition("=")
        clocks: tuple[str, ...] = (clock,)
        if not equals:
            clocks, number = ("monotonic", "boottime"), text
        negative = number.startswith("-")
        whole, _dot, fraction = number.lstrip("-").partition(".")
        if not set(clocks) <= {"monotonic", "boottime"} or not (whole + fraction).isdigit() or not whole:
            raise SpecError("--time-offset", f'"{text}" is not [monotonic=|boottime=]SECONDS')
        total = int(whole) * 10**9 + int((fraction + "0" * 9)[:9])
        seconds, nanoseconds = divmod(-total if negative else total, 10**9)
        offsets.update((name, (name, seconds, nanoseconds)) for name in clocks)
    return tuple(offsets.values())


# --- limits ------------------------------------------------------------------------------------


def resources(options: Options) -> Resources:
    """The limits that are asked for, and the default one of processes."""
    asked: dict[str, Any] = {}
    if "memory" in options:
        asked["memory"] = values.size(options["memory"], "--memory")
        if asked["memory"] < 512 * 1024:
            raise SpecError("--memory", f'"{options["memory"]}" is less than any process needs (512k)')
        asked["memory_swap"] = asked["memory"]
    if "memory_swap" in options:
        text = options["memory_swap"]
        asked["memory_swap"] = -1 if text == "-1" else values.size(text, "--memory-swap")
        if "memory" not in asked:
            raise SpecError("--memory-swap", "needs --memory: it is the limit of both together")
        if -1 < asked["memory_swap"] < asked["memory"]:
            raise SpecError("--memory-swap", "is the limit of memory and swap together: less than --memory")
    limit = options.get("pids_limit")
    asked["pids_default"] = limit is None
    asked["pids"] = (
        defaults.PIDS_LIMIT if limit is None else values.integer(limit, "--pids-limit", -1, 1 << 22)
    )
    if asked["pids"] == 0:
        raise SpecError("--pids-limit", "0 would let nothing run: -1 is no limit")
    if "cpus" in options:
        if "cpu_quota" in options or "cpu_period" in options:
            raise SpecError("--cpus", "is --cpu-quota and --cpu-period in one: give it or them")
        asked["cpu_period"] = 100_000
        asked["cpu_quota"] = int(values.decimal(options["cpus"], "--cpus") * 100_000)
        if asked["cpu_quota"] < 1000:
            raise SpecError("--cpus", "the kernel's least is 0.01")
    if "cpu_shares" in options:
        asked["cpu_shares"] = values.integer(options["cpu_shares"], "--cpu-shares", 2, 1 << 18)
    if "cpuset_cpus" in options:
        asked["cpuset_cpus"] = values.number_list(options["cpuset_cpus"], "--cpuset-cpus", "processors")
    if not RARE_LIMITS.isdisjoint(options):
        from minibox.spec import limits

        asked.update(limits.rare(options, asked))
    return Resources(**asked)


def _cgroup_parent(options: Options) -> str:
    text = options.get("cgroup_parent", "")
    if text and (".." in text.split("/") or not text.strip("/") or "\0" in text):
        raise SpecError("--cgroup-parent", f'"{text}" is not the path of a group below /sys/fs/cgroup')
    return "/" + text.strip("/") if text else ""


def _seccomp(options: Options, privileged: bool) -> Any:
    value = options.get("seccomp", "unconfined" if privileged else "default")
    if value in ("default", "unconfined") or not isinstance(value, str):
        return value
    try:
        return fastjson.loads(calls.read_file(value))
    except KernelError as error:
        raise SpecError("--seccomp", f"{value}: {error.strerror}") from None
    except ValueError as error:
        raise SpecError("--seccomp", f"{value}: {error}") from None


def _show_denials(options: Options) -> str:
    value = options.get("show_denials", "")
    if value not in ("", False, True, "all"):
        raise SpecError("--show-denials", f'"{value}" is not "all"')
    return "all" if value == "all" else "yes" if value else ""


def _notify(options: Options) -> dict[str, Any]:
    """What the Spec has of a handler: the names that it answers, and its file."""
    handler = options.get("seccomp_notify")
    if handler is None:
        return {}
    if isinstance(handler, str):
        from minibox.seccomp.notify import load_handler

        handler = load_handler(handler)
    return {"seccomp_notify": handler.names, "seccomp_handler": handler.path}


# --- mounts ------------------------------------------------------------------------------------


def _mounts(options: Options) -> tuple[Mount, ...]:
    found = [_volume(text) for text in options.get("volume", ())]
    found += [_mount(text) for text in options.get("mount", ())]
    found += [_tmpfs(text) for text in options.get("tmpfs", ())]
    found += [_device(text) for text in options.get("device", ())]
    places = [one.destination for one in found]
    for place in places:
        if places.count(place) > 1:
            raise SpecError("--volume", f"{place} is the destination of two mounts")
    return tuple(sorted(found, key=lambda one: one.destination.count("/")))  # parents before children


def _source(text: str, pointer: str) -> str:
    """A path of the host, absolute; it is checked here, so that the error names the flag."""
    if "/" not in text and not text.startswith("."):
        raise SpecError(pointer, f'"{text}" is no path: write ./{text} for a file or directory here')
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.exists(path):
        raise SpecError(pointer, f"{path} does not exist on the host")
    return path


def _bind(source: str, destination: str, options: list[str], pointer: str) -> Mount:
    path = _source(source, pointer)
    status = os.stat(path)
    mount = Mount(
        destination=values.absolute(destination, pointer),
        kind="bind",
        source=path,
        attributes=("nosuid", "nodev"),
        owner=(status.st_uid, status.st_gid),
    )
    mount = values.mount_options(mount, options, pointer)
    if "ro" in mount.attributes:  # what is mounted below must not stay writable (as Docker, since 25)
        mount = mount.replace(recursive=tuple(dict.fromkeys((*mount.recursive, "ro"))))
    return mount


def _volume(text: str) -> Mount:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts[:2]):
        raise SpecError("--volume", f'"{text}" is not SRC:DST[:OPTION,...]')
    return _bind(parts[0], parts[1], parts[2].split(",") if len(parts) == 3 else [], "--volume")


def _device(text: str) -> Mount:
    """A node of the host; without nodev, which would make it a mere name."""
    from minibox.spec import limits

    source, destination, _access = limits.split_device(text)
    kind, major, minor = limits.device_number(source)
    return Mount(
        destination=destination,
        kind="device",
        source=source,
        attributes=("nosuid", "noexec"),
        data=(f"{kind} {major}:{minor}",),
    )


def _tmpfs(text: str) -> Mount:
    place, _, options = text.partition(":")
    mount = Mount(
        destination=values.absolute(place, "--tmpfs"),
        kind="tmpfs",
        source="tmpfs",
        attributes=("nosuid", "nodev", "noexec"),
        data=("mode=1777",),
    )
    return values.mount_options(mount, options.split(",") if options else [], "--tmpfs")


def _mount(text: str) -> Mount:
    fields: dict[str, str] = {}
    options: list[str] = []
    names = {"src": "source", "dst": "target", "destination": "target"}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key = names.get(key, key)
        if key in ("type", "source", "target") and equals:
            fields[key] = value
        elif key in ("readonly", "ro"):
            options += ["ro"] if value in ("", "true", "1") else []
        elif key == "bind-propagation":
            options.append(value)
        elif key in ("tmpfs-size", "tmpfs-mode"):
            options.append(f"{key[6:]}={value}")
        else:
            options.append(part)
    if "target" not in fields:
        raise SpecError("--mount", f'"{text}" has no target=')
    kind = fields.get("type", "bind")
    if kind == "bind":
        if "source" not in fields:
            raise SpecError("--mount", f'"{text}" has no source=')
        return _bind(fields["source"], fields["target"], options, "--mount")
    if kind == "tmpfs":
        return values.mount_options(_tmpfs(fields["target"]), options, "--mount")
    raise SpecError("--mount", f'type "{kind}": bind and tmpfs are known')


def _shared_mounts(spec: Spec, options: Options) -> Spec:
    """A container that keeps to a mount namespace that others are in.

    pivot_root(2) there would move everyone's root, and mounts would be everyone's, so the root is what
    that namespace has and nothing is mounted.
    """
    flag = f"--mntns {spec.namespace('mount').path}"
    if spec.root.path != "/":
        raise SpecError("--mntns", f"with {flag} the root is that namespace's own: ROOTFS must be /")
    for name in ("volume", "mount", "tmpfs", "device", "read_only"):
        if options.get(name):
            raise SpecError("--mntns", f"nothing is mounted with {flag}: leave --{name} out")
    return spec.replace(masked_paths=(), readonly_paths=(), root=spec.root.replace(layer="direct"))


def with_command(spec: Spec, argv: tuple[str, ...], options: Options) -> Spec:
    """A container's Spec with another command to run in it: user, directory, variables and terminal may
    differ; capabilities, limits and the filter stay the container's."""
    process = spec.process
    kept = dict(entry.split("=", 1) for entry in process.env)
    if process.terminal:  # TERM is that of the terminal it was started from
        kept.pop("TERM", None)
    return spec.replace(
        init="",
        stop_at_exec=False,
        show_denials=_show_denials(options) or spec.show_denials,
        preserve_fds=0,
        time_offsets=(),
        process=process.replace(
            argv=argv,
            env=_entries(kept, _env(options)),
            cwd=options.get("workdir", process.cwd),
            user=options.get("user", process.user),
            groups=tuple(options.get("group_add", process.groups if "user" not in options else ())),
            terminal=tuple(options.get("terminal", ())),
        ),
    )
