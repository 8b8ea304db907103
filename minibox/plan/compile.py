"""THE order: compile(Spec, Host) -> Plan.

A pure function; what it needs to know of the machine is in the Host.  The order of the sections in
`compile` is the order of the steps, and the reason for each place stands where the section begins.

    supervisor                               child
    ----------                               -----
    layers, sources, cgroups with limits
    clone ---------------------------------> (waits)
    id maps, idmapped mounts
    sync.mapped ---------------------------> goes on: ids, namespaces, names
                                             mounts, /dev, masks, pivot
                                             limits, user, descriptors
    waits <--------------------------------- sync.ready
    (state is written, hooks run)
    sync.start ----------------------------> no_new_privs, seccomp, execve
"""

from __future__ import annotations

from minibox.cgroup import groups, v1, v2
from minibox.errors import SpecError
from minibox.kernel import caps, idmap
from minibox.kernel.host import OVERLAY_OVER_IDMAPPED, Host
from minibox.plan import ops
from minibox.plan.model import Plan, Step
from minibox.spec import defaults
from minibox.spec.model import Mount, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    Maps = tuple[tuple[int, int, int], ...]

#: namespaces made by clone3; the cgroup namespace must come after the move into the group that is to be
#: its root, and the time namespace after its offsets are known
AT_CLONE = ("user", "pid", "net", "mount", "uts", "ipc")
PROC_FLAGS = ("nosuid", "nodev", "noexec")


def compile(spec: Spec, host: Host) -> Plan:
    """The Plan of a container on a host.  Raises SpecError for what this host cannot give."""
    return _Compiler(spec, host).plan()


def compile_exec(spec: Spec, host: Host, pid: int, directories: tuple[str, ...]) -> Plan:
    """The Plan of one more process in a running container: `spec` is the container's, with another
    `process`; `pid` is its PID 1 as the caller sees it, `directories` are its cgroups."""
    return _Compiler(spec, host).exec_plan(pid, directories)


class _Compiler:
    """One compilation: the steps so far, and the few facts that several sections share."""

    def __init__(self, spec: Spec, host: Host) -> None:
        self.spec = spec
        self.host = host
        self.steps: list[Step] = []
        self.notes: list[str] = []
        self.own_user = spec.is_new("user")
        self.uid_maps = idmap.lines(spec.uid_maps)
        self.gid_maps = idmap.lines(spec.gid_maps)
        #: whether the container's ids are others than the host's: its own map, or one that it joins
        self.mapped = bool(spec.uid_maps)
        root_uid = idmap.to_host(self.uid_maps, 0) if self.mapped else 0
        root_gid = idmap.to_host(self.gid_maps, 0) if self.mapped else 0
        #: the host ids that own the private layer: the container's root, or the one user that is mapped;
        #: of an ordinary user always its own, since it can give nothing away
        self.owner = (
            self.uid_maps[0][1] if root_uid is None else root_uid,
            self.gid_maps[0][1] if root_gid is None else root_gid,
        )
        if not host.is_root:
            self.owner = (host.euid, host.egid)
        self.has_root = root_uid is not None
        own_uid = self._is_own(self.uid_maps, host.euid)
        own_gid = self._is_own(self.gid_maps, host.egid)
        self.needs_tools = self.mapped and not host.is_root and not (own_uid and own_gid)
        #: setgroups(2) is closed where an ordinary user maps its own gid alone, by newgidmap too
        self.may_setgroups = host.is_root or (self.needs_tools and not own_gid)
        self.joined = [one for one in spec.namespaces if one.path not in ("", "host")]
        self.layer = f"{host.layers}/{spec.id}"
        self.layering = self._layering()

    @staticmethod
    def _is_own(maps: Maps, own: int) -> bool:
        return len(maps) == 1 and maps[0][1:] == (own, 1)

    def _check_ids(self) -> None:
        """Refuse what an ordinary user cannot have, before the kernel does so in its own words."""
        if self.host.is_root:
            return
        uids, gids = (self.uid_maps, self.host.euid), (self.gid_maps, self.host.egid)
        for kind, (maps, own) in (("uid", uids), ("gid", gids)):
            if self.own_user and not any(first <= own < first + size for _inside, first, size in maps):
                raise SpecError(
                    f"--{kind}map",
                    f"your own id must be in it, since the container's files belong to you: IN:{own}:1",
                )

    def _layering(self) -> str:
        """How the root is made: "shared", "direct", "overlay" or "copy"."""
        if not self.spec.is_new("mount"):
            return "shared"
        shifted = self.host.is_root and self.mapped
        if self.spec.root.layer == "direct":
            if shifted and not self.host.can_idmap(self.host.root_type):
                raise SpecError(
                    "--writable",
                    f"this file system (type {self.host.root_type:#x}) has no idmapped mounts on Linux "
                    f"{'.'.join(map(str, self.host.release))}: leave --writable out, or --userns host",
                )
            return "direct"
        if not (self.host.can_overlay if self.mapped else self.host.holds_upper):
            return "copy"
        if shifted and not (
            self.host.can_idmap(self.host.root_type) and self.host.release >= OVERLAY_OVER_IDMAPPED
        ):
            return "copy"
        return "copy" if self._is_foreign() else "overlay"

    def _is_foreign(self) -> bool:
        """Whether an ordinary user's ROOTFS belongs to somebody without an id in the container: overlayfs
        copies nothing of theirs up (EOVERFLOW), so that no file could be made even in /tmp."""
        owner = self.host.root_owner
        mapped = any(outside <= owner < outside + size for _inside, outside, size in self.uid_maps)
        return self.mapped and not self.host.is_root and not mapped and not self.spec.root.readonly

    def add(
        self,
        step_id: str,
        side: str,
        op: ops.Op,
        why: str,
        man: str,
        guards: str = "",
        undo: ops.Op | None = None,
    ) -> None:
        """Append a step; `guards` are threat ids with spaces between them."""
        self.steps.append(
            Step(id=step_id, side=side, op=op, why=why, man=man, guards=tuple(guards.split()), undo=undo)
        )

    def plan(self) -> Plan:
        self._check_ids()
        # What exists before the process does: it has to be there when the process needs it, and to be
        # made with rights that the process will not have.
        self._layer()
        self._sources("supervisor" if self.host.is_root else "child", before_clone=True)
        self._cgroups()
        # Existing namespaces are entered by a process of their own: a pid namespace only takes children.
        self._joins()
        self._clone()
        # Id maps first of all: until they are written the process owns nothing.
        self._id_maps()
        self._idmapped_mounts()
        self._outside_settings()
        self.add(
            "sync.mapped", "supervisor", ops.Release(event="mapped"),
            "The new process may go on: its ids mean something now.", "user_namespaces(7)",
        )  # fmt: skip
        self.add(
            "sync.mapped.wait", "child", ops.Await(event="mapped"),
            "Nothing is done with ids that are not mapped yet.", "user_namespaces(7)",
        )  # fmt: skip
        # Cgroups before the cgroup namespace, whose root is the group the process is in at that moment.
        self._inside_namespaces()
        # Kernel settings while the procfs is attached nowhere: nothing can be mounted over them yet, and
        # the read-only /proc/sys comes later.
        self._settings()
        if self.layering == "shared":
            self.add(
                "root.keep", "child", ops.OpenRoot(),
                "The mount namespace is shared, so its root stays what it is.", "mount_namespaces(7)",
            )  # fmt: skip
        else:
            self._mounts()
        # Limits and the user last: setting up may need more files, more memory and more rights.
        self._limits()
        self._privileges()
        return Plan(steps=tuple(self.steps), notes=tuple(self.notes))

    def exec_plan(self, pid: int, directories: tuple[str, ...]) -> Plan:
        """Open all that is needed; enter; clone once more, since a pid namespace only takes children; then
        the same end as any container's."""
        self.layering = "shared"  # nothing is mounted, and no directory made, in a container that runs
        self.joined = []
        self.groups = groups.existing(directories, self.host)
        self.ruled = bool(self._device_rules())
        for group in self.groups:
            self._open_group(group)
        self.add(
            "join.open", "supervisor", ops.OpenProcess(pid=pid, name="container"),
            "The container by a descriptor of its PID 1: a number could be another process by now.",
            "pidfd_open(2)",
        )  # fmt: skip
        self.add(
            "join.undumpable", "joiner", ops.SetDumpable(),
            "Those who are in the container must not get at this process.", "prctl(2)", "joined-ptrace",
        )  # fmt: skip
        # Namespaces of others first, with the caller's own rights; then those that the container's user
        # namespace owns, together with it.
        joined = [one.kind for one in self.spec.namespaces if one.path not in ("", "host")]
        owned = [one.kind for one in self.spec.namespaces if one.path == ""]
        if self.spec.userns == "join":
            owned, joined = owned + joined, []
        for name, kinds in (("others", joined), ("own", owned)):
            if kinds:
                self.add(
                    f"join.{name}", "joiner", ops.JoinProcess(name="container", kinds=tuple(kinds)),
                    "All in one call: none of it happens when a part is refused.", "setns(2)",
                    "message-truncation",
                )  # fmt: skip
        self._clone_into(joined=True, namespaces=())
        self.add(
            "process.session", "child", ops.NewSession(),
            "The caller's terminal is not the container's.", "setsid(2)", "tty-inject",
        )  # fmt: skip
        self._enter_groups()
        self._become_root()
        self.add(
            "root.keep", "child", ops.OpenRoot(),
            "The root is the container's own by now.", "mount_namespaces(7)",
        )  # fmt: skip
        if self.spec.process.terminal:
            self.add(
                "terminal.devpts", "child", ops.OpenDevpts(),
                "The container's devpts, looked up without following links.", "devpts(4)", "console-link",
            )  # fmt: skip
            self.add(
                "terminal.open", "child", ops.OpenTerminal(console=False),
                "A new terminal: the caller's own cannot be written to as input.", "pty(7)",
                "tty-inject console-link",
            )  # fmt: skip
        self._limits()
        self._privileges()
        return Plan(steps=tuple(self.steps), notes=())

    # --- on the host, before the clone ---------------------------------------------------------

    def _layer(self) -> None:
        if self.layering not in ("overlay", "copy"):
            return
        tools: tuple[str, ...] = ()
        if self.needs_tools:
            tools = (self.host.newuidmap, self.host.newgidmap)
        undo = ops.RemoveTree(
            path=self.layer,
            uid_maps=self.uid_maps if tools else (),
            gid_maps=self.gid_maps if tools else (),
            tools=tools,
        )
        names = ("upper", "work") if self.layering == "overlay" else ("root",)
        uid, gid = self.owner
        self.add(
            "root.layer", "supervisor",
            ops.MakeLayer(path=self.layer, names=names, uid=uid, gid=gid),
            "What the container writes goes here: ROOTFS itself is never changed.", "mkdir(2)",
            undo=undo,
        )  # fmt: skip
        if self.layering == "copy":
            shift = self.host.is_root and self.mapped
            reason = "its file system, or this kernel, has no idmapped mounts"
            if not self.host.can_overlay:
                reason = (
                    f"the file system of {self.layer}, or this kernel, takes no overlay of a user namespace"
                )
            elif not shift:
                reason = (
                    f"it belongs to uid {self.host.root_owner}, who has no id in the container, so nothing "
                    "in it could be changed (a root of your own is not copied: scripts/build-rootfs DIR)"
                )
            self.notes.append(f"{self.spec.root.path} is copied: {reason}")
            self.add(
                "root.copy", "supervisor",
                ops.CopyRoot(
                    source=self.spec.root.path,
                    target=f"{self.layer}/root",
                    uid_maps=self.uid_maps if shift else (),
                    gid_maps=self.gid_maps if shift else (),
                ),
                "A copy with shifted owners stands in for an idmapped mount.", "chown(2)",
            )  # fmt: skip

    def _sources(self, side: str, *, before_clone: bool) -> None:
        """Mounts of the host as detached copies.

        Root's are taken before the clone, with rights to every path; an ordinary user's after it, since
        only the new user namespace gives the right to copy a mount.
        """
        if before_clone == (side == "child") or self.layering == "shared":
            return
        man = "open_tree(2)"
        if self.layering == "overlay":
            self.add(
                "root.open", side,
                ops.OpenTree(path=self.spec.root.path, name="root.lower", recursive=side == "child"),
                "ROOTFS as a mount of its own, attached nowhere yet.", man,
            )  # fmt: skip
            self.add(
                "root.open-layer", side,
                ops.OpenTree(path=self.layer, name="root.layer", recursive=side == "child"),
                "The private layer, reachable by this descriptor only.", man,
            )  # fmt: skip
        else:
            path = f"{self.layer}/root" if self.layering == "copy" else self.spec.root.path
            self.add(
                "root.open", side, ops.OpenTree(path=path, name="root.tree"),
                "The root as a mount of its own, attached nowhere yet.", man,
            )  # fmt: skip
        self._device_sources(side)
        for mount in self.spec.mounts:
            if mount.kind != "bind":
                continue
            self.add(
                f"{self._mount_id(mount)}.open", side,
                ops.OpenTree(
                    path=mount.source, name=f"source {mount.destination}", recursive=mount.bind_recursive
                ),
                "The source is taken by descriptor while the host's paths can still be looked up.", man,
                "mount-symlink-race",
            )  # fmt: skip

    def _device_sources(self, side: str) -> None:
        """Nodes that --device shows.  Where ids are mapped, the host's would belong to nobody there, and
        its mode shut the container's root out: root makes a second node, an ordinary user may make none."""
        nodes = [mount for mount in self.spec.mounts if mount.kind == "device"]
        if nodes and self.makes_nodes:
            self.add(
                "device.nodes", side, ops.NewNodes(name="devices"),
                "A place for device nodes with owners of the container's.", "fsmount(2)",
            )  # fmt: skip
        for number, mount in enumerate(nodes):
            name = mount.destination.strip("/").replace("/", "-")
            device = mount.data[0]
            op: ops.Op = ops.OpenDevice(path=mount.source, name=f"source {mount.destination}", device=device)
            why = "The node by descriptor, and shown to be the device that was meant."
            if self.makes_nodes:
                op = ops.MakeNode(
                    path=mount.source, name="devices", node=str(number), device=device,
                    uid=self.owner[0], gid=self.owner[1],
                )  # fmt: skip
                why = "The same device, owned by the container's root, who could not open the host's node."
            self.add(f"device.{name}.open", side, op, why, "mknod(2)", "dev-link")

    @property
    def makes_nodes(self) -> bool:
        """Whether --device makes nodes rather than to show the host's own."""
        return self.host.is_root and self.mapped

    def _mount_id(self, mount: Mount) -> str:
        name = mount.destination.strip("/").replace("/", "-").replace(".", "_")
        return f"mount.{name or 'root'}"

    def _cgroups(self) -> None:
        self.groups, notes = groups.plan(
            self.spec.resources, self.host, self.spec.id, self.spec.cgroup_parent, self._device_rules()
        )
        self.notes += notes
        self.ruled = any(group.devices for group in self.groups)
        for group in self.groups:
            name = group.name
            if group.leave:
                self.add(
                    f"cgroup.{name}.leave", "supervisor", ops.CgroupLeave(leaf=group.leave),
                    "A group with processes of its own hands no controller down, and only minibox is in it.",
                    "cgroups(7)", undo=ops.CgroupReturn(leaf=group.leave),
                )  # fmt: skip
            self.add(
                f"cgroup.{name}", "supervisor", ops.CgroupCreate(directory=group.directory),
                "A group of the container's own, to limit, count and find its processes.", "cgroups(7)",
                undo=ops.CgroupRemove(directory=group.directory),
            )  # fmt: skip
            for parent, file, value in group.enable:
                self.add(
                    f"cgroup.{name}.enable", "supervisor",
                    ops.CgroupWrite(directory=parent, file=file, value=value),
                    "Controllers are handed down by the parent group.", "cgroups(7)",
                )  # fmt: skip
            for file in group.inherit:
                self.add(
                    f"cgroup.{name}.{file}", "supervisor",
                    ops.CgroupInherit(directory=group.directory, file=file),
                    "A new v1 cpuset has no processors or memory, and lets nobody in.", "cpuset(7)",
                )  # fmt: skip
            for file, value in group.settings:
                guard = {"pids.max": "pids", "memory.max": "memory", "memory.limit_in_bytes": "memory"}
                self.add(
                    self._fresh(f"cgroup.{name}.{file}"), "supervisor",
                    self._setting(group, file, value),
                    "In force before the first instruction of the payload.", "cgroups(7)",
                    guard.get(file, ""),
                )  # fmt: skip
            if group.devices:
                self.add(
                    f"cgroup.{name}.devices", "supervisor",
                    (ops.AllowDevices if group.version == 1 else ops.FilterDevices)(
                        directory=group.directory, rules=group.devices
                    ),
                    "Any node can be made, few can be opened: no disk of the host is among them.",
                    "cgroups(7)", "mknod",
                )  # fmt: skip
            self._open_group(group)

    def _fresh(self, step_id: str) -> str:
        """An id that no step has yet: a file with a line for each device is written several times."""
        taken = {step.id for step in self.steps}
        name, number = step_id, 1
        while name in taken:
            number += 1
            name = f"{step_id}.{number}"
        return name

    @staticmethod
    def _setting(group: groups.Group, file: str, value: str) -> ops.Op:
        if file in (v1.SWAP_FILE, v2.SWAP_FILE):
            return ops.LimitSwap(directory=group.directory, file=file, value=value)
        other = (v1 if group.version == 1 else v2).OTHER_NAMES.get(file)
        if other is not None:
            other_value = value if group.version == 1 else v2.other_value(file, value)
            return ops.CgroupWriteEither(
                directory=group.directory, file=file, value=value, other=other, other_value=other_value
            )
        return ops.CgroupWrite(directory=group.directory, file=file, value=value)

    def _device_rules(self) -> tuple[str, ...]:
        """The rules to be in force; () when there are to be none, with a note where they were needed.

        Under a user namespace mknod(2) makes no device node, and /dev has the harmless ones: there the
        rules are a second wall, for less than 0.1 ms, and nobody need hear of it when a host has none.
        """
        if self.spec.privileged:
            return ()
        why = self.host.no_devices
        if why and (self.spec.resources.devices or self.spec.userns == "host"):
            self.notes.append(f"no rules for devices: {why}")
        if why:
            return ()
        return (*defaults.DEVICE_RULES, *self.spec.resources.devices)

    def _open_group(self, group: groups.Group) -> None:
        self.add(
            f"cgroup.{group.name}.open", "supervisor",
            ops.OpenFile(
                path=group.directory + ("/tasks" if group.version == 1 else ""),
                name=f"cgroup.{group.name}",
                write=group.version == 1,
            ),
            "The group by descriptor: its path means nothing inside.", "cgroups(7)",
        )  # fmt: skip

    def _joins(self) -> None:
        if not self.joined:
            return
        for one in self.joined:
            self.add(
                f"join.{one.kind}.open", "supervisor", ops.OpenFile(path=one.path, name=f"ns.{one.kind}"),
                "The namespace by descriptor, so that it is the one that was meant.", "namespaces(7)",
            )  # fmt: skip
        self.add(
            "join.undumpable", "joiner", ops.SetDumpable(),
            "Those who are in the namespaces already must not get at this process.", "prctl(2)",
            "joined-ptrace",
        )  # fmt: skip
        # An ordinary user gets rights over the others by entering the user namespace that owns them;
        # root would lose its rights over the host's by doing so first.
        order = sorted(self.joined, key=lambda one: (one.kind == "user") == self.host.is_root)
        for one in order:
            self.add(
                f"join.{one.kind}", "joiner", ops.JoinNamespace(kind=one.kind, name=f"ns.{one.kind}"),
                f"The {one.kind} namespace is shared, as asked.", "setns(2)",
            )  # fmt: skip

    def _clone(self) -> None:
        new = tuple(kind for kind in AT_CLONE if self.spec.is_new(kind))
        shared = [one.kind for one in self.spec.namespaces if one.path == "host"]
        if "user" in shared:
            self.notes.append(
                "NO USER NAMESPACE: root of the container is root of this machine (--userns host)"
            )
        others = [kind for kind in shared if kind != "user"]
        if others:
            self.notes.append(f"shared with the host: {' '.join(others)}")
        self._clone_into(joined=bool(self.joined), namespaces=new)

    def _clone_into(self, *, joined: bool, namespaces: tuple[str, ...]) -> None:
        v2 = next((group.name for group in self.groups if group.version == 2), "")
        self.add(
            "clone", "joiner" if joined else "supervisor",
            ops.Clone(namespaces=namespaces, cgroup=f"cgroup.{v2}" if v2 else ""),
            "One process, in all its new namespaces from its first instruction on.", "clone(2)",
            "proc-global release-agent handle-walk mknod abstract-socket",
        )  # fmt: skip

    # --- on the host, after the clone ----------------------------------------------------------

    def _id_maps(self) -> None:
        if not self.own_user:
            return
        if not self.may_setgroups:
            self.add(
                "user.setgroups", "supervisor", ops.DenySetgroups(),
                "Without it the kernel takes no gid_map from an ordinary user.", "user_namespaces(7)",
                "setgroups",
            )  # fmt: skip
        for kind, maps, tool in (
            ("uid", self.uid_maps, self.host.newuidmap),
            ("gid", self.gid_maps, self.host.newgidmap),
        ):
            whose = "an id that nobody has on this machine" if self.host.is_root else "the caller's own id"
            self.add(
                f"user.map-{kind}s", "supervisor",
                ops.WriteIdMap(kind=kind, maps=maps, tool=tool if self.needs_tools else ""),
                f"Root of the container is {whose}.", "user_namespaces(7)",
                "exe-overwrite suid" if kind == "uid" else "",
            )  # fmt: skip

    def _idmapped_mounts(self) -> None:
        man = "mount_setattr(2)"
        if self.host.is_root and self.mapped and self.layering in ("overlay", "direct"):
            name = "root.lower" if self.layering == "overlay" else "root.tree"
            self.add(
                "root.idmap", "supervisor",
                ops.IdmapTree(name=name, recursive=self.layering == "direct"),
                "Files of ROOTFS belong to the container's root without being changed.", man,
            )  # fmt: skip
        for mount in self.spec.mounts:
            if not mount.idmap:
                continue
            self._check_idmap(mount)
            self.add(
                f"{self._mount_id(mount)}.idmap", "supervisor",
                ops.IdmapTree(
                    name=f"source {mount.destination}",
                    uid_maps=self._owner_map(mount.owner[0], self.uid_maps),
                    gid_maps=self._owner_map(mount.owner[1], self.gid_maps),
                    recursive=mount.bind_recursive,
                ),
                "Root of the container reads and writes the source as the source's owner.", man,
            )  # fmt: skip

    def _check_idmap(self, mount: Mount) -> None:
        if not self.host.is_root:
            raise SpecError(
                "--volume",
                f"idmap on {mount.destination} needs root: an ordinary user's own files "
                "belong to the container's root already, so leave it out",
            )
        if not self.mapped:
            raise SpecError("--volume", f"idmap on {mount.destination} needs a user namespace")

    @staticmethod
    def _owner_map(owner: int, maps: Maps) -> Maps:
        """A mount's map in which `owner` on disk is the container's root, others keep their numbers.

        With owner 0 it is the container's map itself.  The id that root would have had on disk (0) is
        left without a place: nobody in the container can touch such a file, or make one.
        """
        first, size = maps[0][1], maps[0][2]
        lines = [(owner, first, 1)]
        if owner == 0:
            return ((0, first, size),)
        if owner > 1:
            lines.append((1, first + 1, min(owner, size) - 1))
        if owner + 1 < size:
            lines.append((owner + 1, first + owner + 1, size - owner - 1))
        return tuple(line for line in lines if line[2] > 0)

    def _outside_settings(self) -> None:
        score = self.spec.process.oom_score_adj
        if score is not None:
            self.add(
                "process.oom-score", "supervisor", ops.SetOomScore(value=score),
                "How readily the kernel ends it when memory is short.", "proc(5)",
            )  # fmt: skip

    # --- inside: identity and namespaces ---------------------------------------------------------

    def _inside_namespaces(self) -> None:
        spec = self.spec
        self.add(
            "process.session", "child", ops.NewSession(),
            "The caller's terminal is not the container's.", "setsid(2)", "tty-inject",
        )  # fmt: skip
        self._enter_groups()
        if spec.is_new("cgroup"):
            self.add(
                "cgroup.namespace", "child", ops.Unshare(kind="cgroup"),
                "The container sees its own group as the top.", "cgroup_namespaces(7)",
                "release-agent cgroupfs-writable",
            )  # fmt: skip
        self._open_proc()
        if spec.is_new("time"):
            # While the process still has the ids it was cloned with: the file belongs to them.
            self.add(
                "time.namespace", "child", ops.Unshare(kind="time"),
                "Clocks of the container's own.", "time_namespaces(7)",
            )  # fmt: skip
            if spec.time_offsets:
                self.add(
                    "time.offsets", "child", ops.SetTimeOffsets(offsets=spec.time_offsets),
                    "Offsets can be set only while nobody is in the namespace.", "time_namespaces(7)",
                )  # fmt: skip
            self.add(
                "time.enter", "child", ops.EnterTimeNamespace(),
                "The unshare was for children; this process is to be in it too.", "time_namespaces(7)",
            )  # fmt: skip
        self._become_root()
        if spec.hostname:
            self.add(
                "uts.hostname", "child", ops.SetHostname(name=spec.hostname),
                "A name of its own.", "uts_namespaces(7)",
            )  # fmt: skip
        if spec.domainname:
            self.add(
                "uts.domainname", "child", ops.SetDomainname(name=spec.domainname),
                "A domain name of its own.", "uts_namespaces(7)",
            )  # fmt: skip
        if spec.is_new("net"):
            self.add(
                "net.loopback", "child", ops.LinkUp(name="lo"),
                "127.0.0.1 works; there is no other interface.", "netdevice(7)",
            )  # fmt: skip

    def _open_proc(self) -> None:
        """A procfs that is the runtime's alone, and later the container's.

        It belongs to a pid namespace: one of somebody else's user namespace lets nobody mount it anew,
        so that there the host's own is taken.
        """
        pid = self.spec.namespace("pid").path
        why = "A private procfs for the runtime's own writes, and later the container's /proc."
        op: ops.Op = ops.OpenProc(attributes=PROC_FLAGS)
        if self.layering == "shared":
            op = ops.OpenFile(path="/proc", name="proc")
            why = "The procfs of the mount namespace that is shared."
        elif pid == "host" and (self.own_user or self.spec.userns == "join"):
            op = ops.OpenTree(path="/proc", name="proc")
            why = "The host's procfs: a user namespace cannot mount one of the host's pid namespace."
        elif pid and self.own_user:
            raise SpecError(
                "--pid",
                f"{pid} belongs to another user namespace than the container's, which cannot mount its proc: "
                "share that one too (--userns container:ID), or --userns host",
            )
        self.add("mount.proc.open", "child", op, why, "proc(5)", "proc-write-redirect")

    def _enter_groups(self) -> None:
        for group in self.groups:
            if group.version == 1:
                self.add(
                    f"cgroup.{group.name}.enter", "child", ops.EnterCgroup(name=f"cgroup.{group.name}"),
                    "Into the group, before it becomes the root of the cgroup namespace.", "cgroups(7)",
                )  # fmt: skip

    def _become_root(self) -> None:
        if self.mapped:
            self.add(
                "user.become-root", "child",
                ops.BecomeRoot(
                    uid=0 if self.has_root else self.uid_maps[0][0],
                    gid=0 if self.has_root else self.gid_maps[0][0],
                    groups=self.may_setgroups,
                ),
                "From here on its files belong to the container's root.", "setresuid(2)",
            )  # fmt: skip
        self.add(
            "process.undumpable", "child", ops.SetDumpable(),
            "It still has descriptors of the host: nobody may trace it.", "prctl(2)", "joined-ptrace fd-leak",
        )  # fmt: skip
        self.add(
            "process.keyring", "child", ops.JoinKeyring(),
            "Keys of the caller's session stay there.", "session-keyring(7)", "keyring",
        )  # fmt: skip

    # --- inside: the file systems ------------------------------------------------------------------

    def _root_attributes(self) -> tuple[str, ...]:
        """nodev always: devices come from /dev.  nosuid where set-uid could do nothing anyway."""
        return ("nodev", "nosuid") if self.spec.process.no_new_privs else ("nodev",)

    def _mounts(self) -> None:
        spec, staging = self.spec, self.host.staging
        self.add(
            "mount.private", "child", ops.SetPropagation(path="/", propagation="private"),
            "No mount travels from here to the host, or from there to here.", "mount_namespaces(7)",
            "propagation",
        )  # fmt: skip
        self._sources("child" if not self.host.is_root else "supervisor", before_clone=False)
        places: tuple[str, ...] = ("lower", "layer", "root") if self.layering == "overlay" else ("root",)
        nodes = self.makes_nodes and any(mount.kind == "device" for mount in spec.mounts)
        places += ("devices",) if nodes else ()
        self.add(
            "root.staging", "child", ops.MountStaging(path=staging, directories=places),
            f"A private place to put the root together, over {staging} in this namespace only.", "tmpfs(5)",
            "mask-null-fake",
        )  # fmt: skip
        if self.layering == "overlay":
            for place, name in (("lower", "root.lower"), ("layer", "root.layer")):
                self.add(
                    f"root.attach-{place}", "child", ops.AttachTree(name=name, place=place),
                    "Overlayfs takes its layers by path.", "move_mount(2)",
                )  # fmt: skip
            self.add(
                "root.overlay", "child",
                ops.MountOverlay(
                    lower=f"{staging}/lower",
                    upper=f"{staging}/layer/upper",
                    work=f"{staging}/layer/work",
                    attributes=self._root_attributes(),
                    user_xattr=self.own_user or spec.userns == "join",
                ),
                "ROOTFS below, the private layer above.", "mount(8)", "suid mknod",
            )  # fmt: skip
        else:
            self.add(
                "root.attach", "child", ops.AttachRoot(name="root.tree", attributes=self._root_attributes()),
                "The root is this directory itself.", "move_mount(2)", "suid mknod",
            )  # fmt: skip
        if nodes:
            self.add(
                "device.attach", "child", ops.AttachTree(name="devices", place="devices"),
                "A mount is copied from a place, not from nowhere.", "move_mount(2)",
            )  # fmt: skip
        standard = {"/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys/fs/cgroup"}
        for mount in spec.mounts:
            if mount.destination in standard:
                self._mount(mount)
                if mount.destination == "/dev/pts":
                    self._device_links()
        # The container's own volumes after the system's, so that they may lie below /dev or hide a file;
        # masks after them all, so that nothing is put back.
        for mount in spec.mounts:
            if mount.destination not in standard:
                self._mount(mount)
        self._masks()
        if spec.root.readonly:
            self.add(
                "root.readonly", "child", ops.ReadonlyRoot(),
                "After the last mount point was made.", "mount_setattr(2)",
            )  # fmt: skip
        self.add(
            "root.pivot", "child", ops.PivotRoot(),
            "The old root is gone from this namespace, not just out of sight.", "pivot_root(2)",
            "handle-walk propagation",
        )  # fmt: skip

    def _mount(self, mount: Mount) -> None:
        step = self._mount_id(mount)
        attributes = tuple(name for name in mount.attributes if name not in mount.recursive)
        if mount.kind == "proc" and mount.destination == "/proc":
            self.add(
                step, "child", ops.AttachProc(),
                "Processes of the container's pid namespace, on a real directory.", "proc(5)", "proc-is-fake",
            )  # fmt: skip
        elif mount.kind == "cgroup":
            self._cgroup_mount(step, mount)
        elif mount.kind == "device" and self.makes_nodes:
            number = [one for one in self.spec.mounts if one.kind == "device"].index(mount)
            self.add(
                step, "child", ops.BindNode(node=f"devices/{number}", destination=mount.destination),
                f"{mount.source} of the host ({mount.data[0]}).", "move_mount(2)", "dev-link",
            )  # fmt: skip
        elif mount.kind in ("bind", "device"):
            if mount.recursive or "ro" in attributes:
                why = f"{mount.source} of the host, {'read-only' if 'ro' in mount.attributes else 'limited'}."
            else:
                why = f"{mount.source} of the host."
            self.add(
                step, "child",
                ops.Bind(
                    name=f"source {mount.destination}",
                    destination=mount.destination,
                    attributes=attributes,
                    recursive=mount.recursive,
                    propagation=mount.propagation,
                ),
                why, "move_mount(2)", "mount-symlink-race",
            )  # fmt: skip
        else:
            data = mount.data
            if mount.kind == "devpts" and self.mapped and idmap.to_host(self.gid_maps, 5) is None:
                data = tuple(one for one in data if not one.startswith("gid="))  # tty's gid is not mapped
            why, guards = _MOUNT_REASONS.get(mount.destination, ("A file system of its own.", "tmpfs"))
            self.add(
                step, "child",
                ops.MountFs(
                    destination=mount.destination,
                    kind=mount.kind,
                    source=mount.source,
                    options=data,
                    attributes=attributes + mount.recursive,
                ),
                why, "fsopen(2)", guards,
            )  # fmt: skip

    def _cgroup_mount(self, step: str, mount: Mount) -> None:
        """v2 is one mount.  Of v1, the hierarchies in which the container has a group of its own: any
        other would show it the groups of the host."""
        why, man, guards = "Its own groups, to look at and not to change.", "cgroups(7)", "cgroupfs-writable"
        cgroups = self.host.cgroups
        if cgroups.mode == "none":
            return
        own_namespace = self.spec.is_new("cgroup") and (self.own_user or self.host.is_root)
        if not own_namespace:
            self.notes.append("the cgroup namespace is not the container's own: /sys/fs/cgroup is empty")
        if cgroups.mode == "v2" and own_namespace:
            self.add(
                step, "child",
                ops.MountFs(
                    destination=mount.destination, kind="cgroup2", source="cgroup", options=(),
                    attributes=mount.attributes,
                ),
                why, man, guards,
            )  # fmt: skip
            return
        hierarchies = tuple(
            group.controllers for group in self.groups if group.version == 1 and own_namespace
        )
        self.add(
            step, "child",
            ops.MountCgroups(
                destination=mount.destination, hierarchies=hierarchies, attributes=mount.attributes
            ),
            why, man, guards,
        )  # fmt: skip

    def _device_links(self) -> None:
        for name in defaults.DEVICES:
            self.add(
                f"dev.{name}", "child", ops.BindDevice(name=name),
                "A device of the host that gives or takes bytes and nothing else.", "null(4)", "dev-link",
            )  # fmt: skip
        for name, target in (
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ):
            self.add(
                f"dev.{name}", "child", ops.LinkDevice(target=target, name=name),
                "Where programs expect it.", "proc(5)", "dev-link",
            )  # fmt: skip
        if self.spec.process.terminal:
            self.add(
                "terminal.open", "child", ops.OpenTerminal(),
                "A new terminal: the caller's own cannot be written to as input.", "pty(7)",
                "tty-inject console-link",
            )  # fmt: skip

    def _masks(self) -> None:
        for path in self.spec.masked_paths:
            self.add(
                f"mask.{path.strip('/').replace('/', '-')}", "child", ops.MaskPath(path=path),
                "It tells about the machine, not about the container.", "proc(5)", "proc-leak",
            )  # fmt: skip
        for path in self.spec.readonly_paths:
            self.add(
                f"readonly.{path.strip('/').replace('/', '-')}", "child", ops.ReadonlyPath(path=path),
                "It changes the machine, not the container.", "proc(5)", "proc-global",
            )  # fmt: skip

    def _settings(self) -> None:
        for name, value in self._sysctls():
            self.add(
                f"sysctl.{name.replace('/', '.')}", "child", ops.SetSysctl(name=name, value=value),
                *self._sysctl_reason(name),
            )  # fmt: skip

    def _sysctls(self) -> list[tuple[str, str]]:
        settings = [(name.replace(".", "/"), value) for name, value in self.spec.sysctls]
        asked = any(name == "user/max_user_namespaces" for name, _value in settings)
        if self.own_user and not self.spec.privileged and not asked:
            settings.insert(0, ("user/max_user_namespaces", "0"))
        return settings

    @staticmethod
    def _sysctl_reason(name: str) -> tuple[str, str, str]:
        if name == "user/max_user_namespaces":
            return (
                "A user namespace inside would give every capability back, and most of the kernel with it.",
                "namespaces(7)",
                "nested-userns",
            )
        return "A setting of its own namespace, as asked.", "proc(5)", "sysctl-inject"

    # --- inside: limits, user, privileges ------------------------------------------------------------

    def _limits(self) -> None:
        process = self.spec.process
        for limit in process.rlimits:
            self.add(
                f"rlimit.{limit.kind.lower()}", "child",
                ops.SetRlimit(kind=limit.kind, soft=limit.soft, hard=limit.hard),
                _NO_CORES if limit.kind == "CORE" else "As asked.",
                "getrlimit(2)", "proc-global" if limit.kind == "CORE" else "fds",
            )  # fmt: skip
        self.add(
            "process.umask", "child", ops.SetUmask(mask=process.umask),
            "The caller's own does not leak in.", "umask(2)",
        )  # fmt: skip
        self.add(
            "process.user", "child", ops.ResolveUser(user=process.user, groups=process.groups),
            "Names mean what the container's own files say.", "passwd(5)", "user-parse interpreter-hijack",
        )  # fmt: skip
        self.add(
            "process.cwd", "child",
            ops.ChangeDirectory(path=process.cwd, create=self.layering != "shared"),
            "By descriptor, and shown to lie inside the root.", "openat2(2)", "fd-leak",
        )  # fmt: skip
        if process.terminal:
            self.add(
                "terminal.use", "child", ops.UseTerminal(streams=process.terminal),
                "Job control, window size and ^C are the container's own.", "tty_ioctl(4)", "tty-inject",
            )  # fmt: skip

    def _capability_sets(self) -> tuple[int, int]:
        """(capabilities, ambient): within what the caller itself may give."""
        asked = self.spec.process.capabilities
        mknod = caps.mask(("MKNOD",))
        if (
            self.spec.userns == "host"
            and not self.ruled
            and not self.spec.privileged
            and asked.bounding & mknod
        ):
            # A node in a volume would be one of the host's devices, and nothing would keep it shut.
            self.notes.append("CAP_MKNOD is left out: there are no rules for devices")
            asked = defaults.capabilities(asked.bounding & ~mknod, asked.ambient & ~mknod)
        known = (1 << (self.host.last_cap + 1)) - 1
        missing = asked.bounding & ~(self.host.bounding & known)
        if missing and not self.spec.privileged:
            explicit = missing & ~defaults.CAPABILITIES
            names = " ".join(caps.names(missing))
            if explicit:
                raise SpecError(
                    "--cap-add",
                    f"{' '.join(caps.names(explicit))}: not in the caller's own bounding set, or unknown to "
                    "this kernel (capsh --print shows it)",
                )
            self.notes.append(f"not in the caller's own bounding set, so not in the container's: {names}")
        elif missing:
            self.notes.append(
                f"--privileged, less what the caller itself lacks: {' '.join(caps.names(missing))}"
            )
        return asked.bounding & ~missing, asked.ambient & ~missing

    def _privileges(self) -> None:
        process = self.spec.process
        bits, ambient = self._capability_sets()
        profile = self.spec.seccomp if isinstance(self.spec.seccomp, str) else "the given profile"
        filtered = profile != "unconfined" or bool(self.spec.seccomp_notify)
        if not filtered:
            self.notes.append("no seccomp filter: every system call of the kernel can be reached")
        load = ops.LoadSeccomp(
            profile=profile,
            needs_no_new_privs=process.no_new_privs,
            notify=self.spec.seccomp_notify,
            denials=self.spec.show_denials,
        )
        why_filter = "A filter that neither the payload nor anything it starts can take off."
        guards = "kernel-surface socket-family seccomp-abi nested-userns keyring tty-inject"
        if not process.no_new_privs:
            self.notes.append("set-uid programs and file capabilities take effect (--allow-new-privs)")
        # Everything is opened by now, so descriptors can be closed before the filter is in force, which
        # may refuse close_range; they are only marked, and close at execve.
        self.add(
            "process.prepare", "child",
            ops.PrepareProgram(
                argv=() if self.spec.init == "pause" else process.argv,
                env=process.env,
                init=self._init_mode(),
            ),
            *self._prepare_reason(),
        )  # fmt: skip
        self.add(
            "process.close", "child", ops.CloseDescriptors(first=3 + self.spec.preserve_fds),
            "Nothing of the host is left open, whoever opened it.", "close_range(2)", "fd-leak",
        )  # fmt: skip
        # Without no_new_privs a filter needs CAP_SYS_ADMIN, which goes next.
        if not process.no_new_privs and filtered:
            self.add("seccomp.load", "child", load, why_filter, "seccomp(2)", guards)
        self.add(
            "caps.bounding", "child", ops.DropBounding(keep=bits, last=self.host.last_cap),
            "First of the sets, since dropping from it needs CAP_SETPCAP.", "capabilities(7)",
            "inheritable-caps release-agent",
        )  # fmt: skip
        self.add(
            "caps.keep", "child", ops.KeepCapabilities(),
            "The permitted set would be lost with the change to another user.", "prctl(2)",
        )  # fmt: skip
        self.add(
            "user.ids", "child", ops.SetIds(groups=self.may_setgroups),
            "Groups before ids: without CAP_SETGID they could not be changed.", "setresuid(2)", "setgroups",
        )  # fmt: skip
        self.add(
            "caps.set", "child", ops.SetCapabilities(effective=bits, permitted=bits, inheritable=ambient),
            "Inheritable is empty unless ambient capabilities were asked for.", "capset(2)",
            "inheritable-caps",
        )  # fmt: skip
        if ambient:
            self.add(
                "caps.ambient", "child", ops.RaiseAmbient(mask=ambient),
                "Kept across execve by a user that is not root.", "capabilities(7)",
            )  # fmt: skip
        self.add(
            "process.death-signal", "child", ops.SetDeathSignal(),
            "Whatever happens to minibox, the container does not outlive it.", "prctl(2)", "residue",
        )  # fmt: skip
        self.add(
            "sync.ready", "child", ops.Release(event="ready"),
            "All is made: the state can be written, hooks can run.", "unix(7)",
        )  # fmt: skip
        self.add(
            "sync.ready.wait", "supervisor", ops.Await(event="ready"),
            "Every step inside has succeeded.", "unix(7)",
        )  # fmt: skip
        if self.host.is_root and self.mapped:
            self.add(
                "process.own-pipes", "supervisor",
                ops.OwnStreams(uid_maps=self.uid_maps, gid_maps=self.gid_maps),
                "So that the payload's user can open /dev/stdout when it is a pipe.", "pipe(7)",
            )  # fmt: skip
        self.add(
            "sync.start", "supervisor", ops.Release(event="start"),
            "The payload may begin.", "unix(7)",
        )  # fmt: skip
        self.add(
            "sync.start.wait", "child", ops.Await(event="start"),
            "A created container stays here until it is started; the supervisor's death ends it.", "unix(7)",
        )  # fmt: skip
        if self.spec.stop_at_exec:
            self.add(
                "process.trace-me", "child", ops.TraceMe(),
                "The payload stops before its first instruction, so that it can be looked at.", "ptrace(2)",
            )  # fmt: skip
        if process.no_new_privs:
            self.add(
                "process.no-new-privs", "child", ops.SetNoNewPrivs(),
                "A set-uid program gains nothing, and a filter may be loaded without rights.", "prctl(2)",
                "suid",
            )  # fmt: skip
            if filtered:
                self.add("seccomp.load", "child", load, why_filter, "seccomp(2)", guards)
        self.add(
            "process.execute", "child", ops.Execute(argv=process.argv),
            "The payload takes the place of the runtime.", "execve(2)",
        )  # fmt: skip

    def _init_mode(self) -> str:
        if self.spec.init:
            return self.spec.init
        owner = self.host.runtime_owner
        safe = self.mapped and not any(first <= owner < first + n for _in, first, n in self.uid_maps)
        return "" if safe else "exec"

    def _prepare_reason(self) -> tuple[str, str, str]:
        mode = self._init_mode()
        if mode in ("run", "pause"):
            return "PID 1 passes signals on and reaps; it comes from memory, sealed.", "memfd_create(2)", ""
        if mode == "exec":
            return (
                "Its user owns, outside, the program that /proc/self/exe names: sealed memory instead.",
                "memfd_create(2)",
                "exe-overwrite",
            )
        return "The arrays of execve, made while memory can still be had.", "execve(2)", ""


_NO_CORES = "No core files are written; a core_pattern that is a pipe ignores the limit."
#: destination -> (why, guards)
_MOUNT_REASONS = {
    "/sys": ("The machine's devices and settings, to look at and not to change.", "release-agent"),
    "/dev": ("A directory of the container's own, with nothing of the host in it.", "dev-link"),
    "/dev/pts": ("Terminals of the container's own.", "console-link tty-inject"),
    "/dev/shm": ("Shared memory, of limited size.", "tmpfs"),
    "/dev/mqueue": ("Message queues of the IPC namespace.", ""),
}
