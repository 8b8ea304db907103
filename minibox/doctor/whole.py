"""The whole of it: a container with defaults, made of a root that holds one static program."""

from __future__ import annotations

import os
import shutil
import time

from minibox.doctor import report, trial
from minibox.doctor.report import Check, Finding
from minibox.errors import KernelError, MiniboxError, StepError
from minibox.kernel import calls, tree
from minibox.kernel import consts as c
from minibox.runtime import container, hints, prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minibox.doctor.case import Case

SECONDS = 10.0


def run(case: Case) -> Finding:
    """`minibox.run(ROOT, ["/bin/init", "pause"])`, with states and layers of its own."""
    image = os.path.join(os.path.dirname(os.path.dirname(container.__file__)), "minibox-init")
    if not os.path.exists(image):
        return Finding(status=report.UNKNOWN, fact="not tried: minibox-init is not there", needed=True)
    try:
        with trial.scratch(case.store.data) as directory:
            began = time.monotonic()
            try:
                said = _run(directory, image)
            finally:
                _clear(directory)
            took = round((time.monotonic() - began) * 1000)
    except KernelError as error:
        return report.missing(str(error), "no container can be made", "see store.data", needed=True)
    if "code" not in said:
        return Finding(status=report.UNKNOWN, fact="the child that made it ended", needed=True)
    if said["code"] == 0:
        return report.ok(f"a container was made, ran, and was removed in {took} ms")
    fact = said.get("failure") or f"its program ended by {said['code']}: {said['stderr']}"
    hint = said.get("hint", "")
    if hint == hints.DOCTOR:
        hint = ""
    return report.missing(
        fact.replace(directory, "DIR"), "no container can be made", hint or "see the lines above", needed=True
    )


def _run(directory: str, image: str) -> dict[str, Any]:
    """What came of it: `code`, and where that is not 0 `failure` and `hint`, or `stderr`."""
    root = f"{directory}/root"
    for path in (root, f"{root}/bin"):
        calls.mkdirat(c.AT_FDCWD, path, 0o755)
    shutil.copyfile(image, f"{root}/bin/init")
    os.chmod(f"{root}/bin/init", 0o755)
    # RUN is a directory of its own, since the real one is perhaps in use; ROOTFS must be in reach.
    os.chmod(directory, 0o711)
    environment = {"MINIBOX_ROOT": f"{directory}/run", "MINIBOX_DATA": f"{directory}/data"}
    if os.geteuid() and not os.path.lexists(prepare.cache_directory()):
        environment["XDG_CACHE_HOME"] = f"{directory}/cache"  # nothing is to be left behind
    with trial.Child(lambda child: child.tell(_act(root, environment))) as child:
        return child.hear(SECONDS)


def _act(root: str, environment: dict[str, str]) -> dict[str, Any]:
    """In the child: the library's `run`, with nothing on stdin, at whose end the program ends."""
    from minibox import api

    os.environ.update(environment)
    try:
        result = api.run(root, ("/bin/init", "pause", "9"), timeout=5)
    except StepError as error:
        first, *_rest = str(error).splitlines()
        return {"code": error.exit_code, "failure": first, "hint": error.hint}
    except MiniboxError as error:
        return {"code": error.exit_code, "failure": str(error)}
    return {"code": result.exit_code, "stderr": os.fsdecode(result.stderr)[:500]}


def _clear(directory: str) -> None:
    """A layer whose container could not clear it away has files of other ids: root removes them, and an
    ordinary user's container has made none."""
    try:
        tree.remove(f"{directory}/data")
    except KernelError:
        pass


CHECKS = (Check("run.default", run, needed=True),)
