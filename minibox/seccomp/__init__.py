"""System call filters: a profile is read, compiled to BPF, cached, read back, explained, and answered.

    from minibox.seccomp import Request, Response, Supervisor

These names are imported when they are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.seccomp.notify import Gone, NotifyError, Request, Response, Supervisor

__all__ = ["Gone", "NotifyError", "Request", "Response", "Supervisor"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from minibox.seccomp import notify

    globals().update({one: getattr(notify, one) for one in __all__})
    return globals()[name]
