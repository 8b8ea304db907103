"""The options of `run` as tables: for the command line, the library's keywords, help and reference pages."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    #: long name -> (kind, short name, what its value is, help)
    Table = dict[str, tuple[str, str, str, str]]

#: a FLAG is there or not, a VALUE has one, a LIST one each time it is given, a MAYBE one or none, a PAIR two
FLAG, VALUE, LIST, MAYBE, PAIR = "flag", "value", "list", "maybe", "pair"

PROCESS: Table = {
    "interactive": (FLAG, "i", "", "keep stdin (it is kept anyway)"),
    "tty": (FLAG, "t", "", "a new terminal as stdin, stdout and stderr (default: where they are terminals)"),
    "no-tty": (FLAG, "T", "", "no new terminal: the caller's own streams as they are"),
    "user": (VALUE, "u", "NAME|UID[:GROUP]", "who runs the command, by the container's own files"),
    "group-add": (LIST, "", "GROUP", "one more group"),
    "workdir": (VALUE, "w", "DIR", "working directory inside"),
    "env": (LIST, "e", "NAME[=VALUE]", "a variable, or one of the caller's to pass on"),
    "env-file": (LIST, "", "FILE", "lines of NAME=VALUE"),
    "detach": (FLAG, "d", "", "run in the background"),
    "pidfile": (VALUE, "", "FILE", "write the process's number there"),
    "trace": (MAYBE, "", "FILE", "print each step with its result and time (to FILE as JSON lines)"),
}
RUN: Table = {
    **PROCESS,
    "name": (VALUE, "", "NAME", "the container's name (default: random)"),
    "rm": (FLAG, "", "", "remove it at its end (the default without --detach)"),
    "keep": (FLAG, "", "", "keep state and changes after its end, until rm"),
    "timeout": (VALUE, "", "SECONDS", "kill it after so long"),
    "stop-timeout": (VALUE, "", "SECONDS", "from a SIGTERM that it handles to SIGKILL (default 10)"),
    "init": (FLAG, "", "", "minibox-init as PID 1: passes signals on and reaps"),
    "preserve-fds": (VALUE, "", "N", "hand on N descriptors from 3 on"),
    "verify": (FLAG, "", "", "before the payload begins, compare every step with what the kernel reports"),
    "annotation": (LIST, "", "KEY=VALUE", "a note kept in its state"),
    "read-only": (FLAG, "", "", "the root cannot be written to"),
    "writable": (FLAG, "", "", "ROOTFS itself takes the changes (default: a private layer)"),
    "volume": (
        LIST,
        "v",
        "SRC:DST[:OPT,...]",
        "show a file or directory of the host: ro rro idmap nosuid ...",
    ),
    "mount": (LIST, "", "type=bind|tmpfs,...", "the same, spelled out: source= target= readonly tmpfs-size="),
    "tmpfs": (LIST, "", "DST[:OPT,...]", "an empty memory file system: size=64m mode=1777 ..."),
    "memory": (VALUE, "m", "SIZE", "memory limit, such as 64m"),
    "memory-swap": (VALUE, "", "SIZE", "limit of memory and swap together (default: as --memory); -1: none"),
    "pids-limit": (VALUE, "", "N", "most processes at once (default 4096); -1: no limit"),
    "cpus": (VALUE, "", "N", "processor time, such as 0.5"),
    "cpu-shares": (VALUE, "", "N", "relative weight, 1024 is the middle"),
    "cpuset-cpus": (VALUE, "", "LIST", "processors it may run on, such as 0-1"),
    "ulimit": (LIST, "", "NAME=SOFT[:HARD]", "a resource limit of setrlimit(2)"),
    "oom-score-adj": (VALUE, "", "N", "-1000 to 1000"),
    "cap-add": (LIST, "", "CAP", "one more capability, or ALL"),
    "cap-drop": (LIST, "", "CAP", "one less, or ALL"),
    "cap-ambient": (LIST, "", "CAP", "kept by a user that is not root"),
    "seccomp": (VALUE, "", "default|unconfined|FILE", "system call filter; FILE as for docker or OCI"),
    "seccomp-notify": (
        VALUE,
        "",
        "HANDLER.py",
        "its handle(request) answers the calls named in its SYSCALLS",
    ),
    "show-denials": (MAYBE, "", "all", "tell which calls the filter refuses, and whom (all: ENOSYS too)"),
    "no-new-privs": (FLAG, "", "", "set-uid programs gain nothing (the default)"),
    "allow-new-privs": (FLAG, "", "", "set-uid programs and file capabilities take effect"),
    "privileged": (FLAG, "", "", "all the caller's capabilities, no filter, no masks"),
    "userns": (VALUE, "", "auto|keep-id|host|...", "user namespace"),
    "uidmap": (LIST, "", "IN:OUT:SIZE", "user ids of the container and of the host"),
    "gidmap": (LIST, "", "IN:OUT:SIZE", "group ids (default: as --uidmap)"),
    "network": (VALUE, "", "none|host|...", "network namespace; none has lo only (default)"),
    "pid": (VALUE, "", "new|host|...", "pid namespace"),
    "ipc": (VALUE, "", "new|host|...", "IPC namespace"),
    "uts": (VALUE, "", "new|host|...", "host name namespace"),
    "cgroupns": (VALUE, "", "new|host|...", "cgroup namespace"),
    "mntns": (VALUE, "", "new|host|...", "mount namespace; of others: ROOTFS must be /"),
    "timens": (VALUE, "", "new|host|...", "time namespace"),
    "time-offset": (LIST, "", "[CLOCK=]SECONDS", "clocks of a new time namespace: monotonic, boottime"),
    "hostname": (VALUE, "", "NAME", "default: the container's name"),
    "domainname": (VALUE, "", "NAME", "NIS domain name"),
    "sysctl": (LIST, "", "KEY=VALUE", "a kernel setting of a namespace of its own"),
    "umask": (VALUE, "", "OCTAL", "default 0022"),
}
