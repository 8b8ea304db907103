"""What the steps of a Plan hand to one another while it runs: descriptors by name, and the channel."""

from __future__ import annotations

from minibox import fastjson
from minibox.errors import KernelError
from minibox.kernel import calls
from minibox.kernel.users import User

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class PeerGone(Exception):
    """The other side of the clone ended before the rendezvous."""


class Context:
    """The state of one run of a Plan, on one side of the clone.

    `fds` are descriptors under the names that the operands use; the child inherits those that the
    supervisor opened before the clone.  `pid` and `pidfd` are the child's, for the supervisor.
    """

    def __init__(self) -> None:
        self.fds: dict[str, int] = {}
        self.streams: dict[int, int] = {}  # 0, 1, 2 -> what the payload gets there instead of the caller's
        self.filters: dict[str, tuple[bytes, int]] = {}  # name -> (BPF, flags of seccomp(2))
        self.listener: Any = None  # who answers a filter's notifications: runtime/listener.py
        self.listener_by_thread = False  # whether the filter keeps its loader from sending the listener
        self.channel = -1
        self.pid = -1
        self.pidfd = -1
        self.user = User(uid=0, gid=0)
        self.init_image = b""  # the static minibox-init, read before the clone
        self.arrived: dict[str, list[int]] = {}  # rendezvous that the other side has come to -> its ids
        self.program: Program | None = None
        self.on_message: Callable[[Mapping[str, Any], int], None] | None = None

    def fd(self, name: str) -> int:
        """The descriptor under a name; a step that was left out did not open it."""
        if name not in self.fds:
            raise KernelError(9, "lookup", (name, "the step that opens it was left out"))
        return self.fds[name]

    def send(self, message: Mapping[str, Any], fd: int = -1) -> None:
        """One message to the other side, with a descriptor when given."""
        calls.send(self.channel, fastjson.dumps(message).encode(), fd)

    def wait_for(self, name: str) -> None:
        """Until the other side arrives at the rendezvous; other messages go to `on_message`.

        Raises PeerGone when the other side ends first.
        """
        while name not in self.arrived:
            data, fd = calls.recv(self.channel)
            if not data:
                raise PeerGone(name)
            self.take(fastjson.loads(data.decode()), fd)
        uid, gid = self.arrived.pop(name)
        self.user = self.user.replace(uid=uid, gid=gid)

    def take(self, message: Mapping[str, Any], fd: int) -> None:
        """One message: an arrival is kept until somebody waits for it, whenever it comes."""
        if "sync" in message:
            self.arrived[message["sync"]] = message["ids"]
        elif self.on_message is not None:
            self.on_message(message, fd)


class Program:
    """A command with all that execve(2) wants, made while memory and files are still at hand."""

    __slots__ = ("argv", "candidates", "envp", "fd", "search")

    def __init__(
        self,
        candidates: tuple[str, ...],
        argv: calls.StringArray,
        envp: calls.StringArray,
        fd: int = -1,
        search: bool = False,
    ) -> None:
        self.candidates = candidates
        self.argv = argv
        self.envp = envp
        self.fd = fd
        self.search = search
