"""Who answers the notifications of a container's filter: a handler, the collector of denials, or an agent.

    child        loads the filter, sends its listener through the channel     native/minibox.c says how
    supervisor   `take`s it: starts a thread that answers, or passes it on to the agent's socket
    thread       answers until nobody with the filter is left; then `finish` tells the summary

The thread is needed before the payload runs: its very execve may wait for an answer.  One filter has one
listener, so that handler and denials share it: what the filter says of a call decides who answers.
"""

from __future__ import annotations

import os

from minibox import fastjson
from minibox.errors import SpecError, StateError
from minibox.kernel import consts as c
from minibox.seccomp import decode, denials, notify, profile, syscalls, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from minibox.kernel.host import Host
    from minibox.spec.model import Spec

OCI_VERSION = "1.2.0"
NOTIFY_SINCE, KILLABLE_SINCE = (5, 0), (5, 19)
_TSYNC, _TSYNC_ESRCH = 1 << 0, 1 << 4
_SECONDS_FOR_AGENT = 10.0


class Listener:
    """One filter's notifications, and what becomes of them.

    `report` gets lines for a person: by default they go to stderr.  `denials` has what was refused, when that
    was asked for.
    """

    def __init__(self, bpf: bytes, spec: Spec, capabilities: int) -> None:
        self.bpf = bpf  # as the profile means it: what decides who answers
        self.spec = spec
        self.capabilities = capabilities
        self.handler: notify.Handler | None = None
        self.denials: denials.Denials | None = None
        self.agent: dict[str, str] | None = None
        self.container_pid = 0  # of the container that an exec goes into
        self.by_thread = False
        self.report: Callable[[str], None] | None = denials.to_stderr
        self._supervisor: notify.Supervisor | None = None

    def take(self, fd: int, pid: int) -> None:
        """The listener of process `pid`, which is this one's from here on.  Raises SpecError."""
        if self.agent is not None:
            try:
                self._pass_on(self.agent, fd, pid)
            finally:
                os.close(fd)
            return
        told = None if self.denials is None else self.denials.tell
        self._supervisor = notify.Supervisor(fd, self._answer, report=self._say, afterwards=told)
        self._supervisor.start()

    def finish(self) -> None:
        """Answer what still waits, then no more; say how often what was denied."""
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None
            if self.denials is not None:
                self.denials.summary()

    def show_denials(self) -> None:
        """Collect what is refused."""
        self.denials = denials.Denials(self._say, self._reason)

    def _say(self, text: str) -> None:
        if self.report is not None:
            self.report(text)

    def _answer(self, request: notify.Request) -> notify.Response | None:
        action, data = decode.evaluate(
            self.bpf, request.arch, request.nr, request.args, request.instruction_pointer
        )
        if action == decode.SECCOMP_RET_ERRNO:
            if self.denials is not None:
                self.denials.note(request, data)
            return notify.Response(errno=data)
        if self.handler is None:
            return notify.Response(errno=38)
        return self.handler.handle(request)

    def _reason(self, name: str) -> str:
        if self.report is None:
            return ""
        from minibox.seccomp import explain

        return explain.reason(self.spec.seccomp, name, self.capabilities)

    def _pass_on(self, agent: Mapping[str, str], fd: int, pid: int) -> None:
        """Give the listener to an agent: OCI runtime specification, config-linux.md, "The Container Process
        State".  One connection, one message, as runc does."""
        import socket

        message = fastjson.dumps(self.process_state(pid, agent["metadata"])).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_SECONDS_FOR_AGENT)
                connection.connect(agent["path"])
                sent = socket.send_fds(connection, [message], [fd])
                connection.sendall(message[sent:])
        except OSError as error:
            raise SpecError(
                "/linux/seccomp/listenerPath",
                f"{agent['path']}: {error.strerror or error} (the agent that is to answer must listen there)",
            ) from None

    def process_state(self, pid: int, metadata: str) -> dict[str, Any]:
        """What the agent is told of the process and its container."""
        state = {
            "ociVersion": OCI_VERSION,
            "id": self.spec.id,
            "status": "running" if self.container_pid else "creating",
            "pid": self.container_pid or pid,
            "bundle": self.spec.root.path,
            "annotations": dict(self.spec.annotations),
        }
        told = {"ociVersion": OCI_VERSION, "fds": ["seccompFd"], "pid": pid, "state": state}
        return {**told, "metadata": metadata} if metadata else told


def document(spec: Spec) -> Any:
    """The profile of a Spec, with the calls that are notified to its handler."""
    if not spec.seccomp_notify:
        return spec.seccomp
    if spec.seccomp == "default":
        from minibox.seccomp.default import document as default

        return notify.notified(default(), spec.seccomp_notify)
    if spec.seccomp == "unconfined":  # still, what the machine can run is to run
        extra = {"x86_64": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"], "aarch64": ["SCMP_ARCH_ARM"]}
        everything = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": extra.get(os.uname().machine, []),
        }
        return notify.notified(everything, spec.seccomp_notify)
    return notify.notified(spec.seccomp, spec.seccomp_notify)


def make(
    spec: Spec,
    host: Host,
    capabilities: int,
    found: tuple[bytes, int, dict[str, str] | None],
    handler: notify.Handler | None,
) -> tuple[Listener | None, bytes, int]:
    """(who answers, the filter to load, its flags) for a compiled filter (BPF, flags, the agent's socket).

    None for a filter that notifies of nothing.  Raises SpecError when nobody is there to answer, or the
    kernel has no notifications.
    """
    bpf, flags, agent = found
    notifies = bool(flags & c.SECCOMP_FILTER_FLAG_NEW_LISTENER)
    own = bool(spec.seccomp_notify or spec.show_denials)
    made = Listener(bpf, spec, capabilities)
    loaded = bpf
    if spec.show_denials:
        loaded = denials.variant(bpf, everything=spec.show_denials == "all")
        made.show_denials()
    if not notifies and loaded == bpf:
        return None, bpf, flags
    if host.release < NOTIFY_SINCE:
        raise SpecError("--seccomp", "the kernel has no notifications (SCMP_ACT_NOTIFY): Linux 5.0 has")
    if notifies and handler is None:
        if agent is None:
            raise SpecError(
                "--seccomp",
                "the profile notifies (SCMP_ACT_NOTIFY) and nobody is named to answer: listenerPath in the "
                "profile, or --seccomp-notify",
            )
        if spec.show_denials:
            raise SpecError(
                "--show-denials",
                "the profile's listenerPath takes the one listener that a filter has: leave one of them out",
            )
        made.agent = agent
    made.handler = handler
    flags |= c.SECCOMP_FILTER_FLAG_NEW_LISTENER
    if flags & _TSYNC:
        flags |= _TSYNC_ESRCH
    if own and host.release >= KILLABLE_SINCE:  # a signal does not end a call that is being answered
        flags |= profile.FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    made.by_thread = not _allows_sendmsg(loaded, host.machine)
    return made, loaded, flags


def _allows_sendmsg(bpf: bytes, machine: str) -> bool:
    """Whether the child can send its listener with the filter in force, whatever the arguments."""
    arch = next((arch for arch, name in notify.AUDIT_ARCHES.items() if name == machine), 0)
    number = syscalls.number(machine, "sendmsg")
    if number is None:
        return False
    try:
        result = tree.tree(bpf, arch, number)
    except tree.TooComplex:
        return False
    return result in (decode.SECCOMP_RET_ALLOW, decode.SECCOMP_RET_LOG)


def with_handler(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options whose `seccomp_notify` is a Handler: made from a file's path, or from an object that has
    `handle` and `SYSCALLS`.  Raises SpecError."""
    given = options["seccomp_notify"]
    if isinstance(given, notify.Handler):
        return dict(options)
    if isinstance(given, str):
        return {**options, "seccomp_notify": notify.load_handler(given)}
    handler = notify.as_handler(getattr(given, "handle", None), getattr(given, "SYSCALLS", None))
    return {**options, "seccomp_notify": handler}


def handler_for(spec: Spec, given: notify.Handler | None) -> notify.Handler | None:
    """Who answers for one more command in a container: the caller's handler, or the file's anew.  Raises
    StateError."""
    if given is not None or not spec.seccomp_notify:
        return given
    if not spec.seccomp_handler:
        raise StateError(f"container {spec.id} has its handler of notifications in another process")
    return notify.load_handler(spec.seccomp_handler)
