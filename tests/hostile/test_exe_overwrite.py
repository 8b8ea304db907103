# ruff: noqa: E501  (tables of words)
"""exe-overwrite (CVE-2019-5736): the program that runs the container is found through /proc and overwritten.

The runtime of these tests is a python of their own: a copy, which is the canary.  The root has the entry
point `#!/proc/self/exe` and, where a dynamic loader belongs, a program that keeps /proc/self/exe by
O_PATH and opens it for writing once nobody runs it any more; the runtime's process meanwhile becomes
another program, so that nothing keeps the canary busy.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import wait_until

from hostile.harness import facts_of, stores

pytestmark = pytest.mark.root

CALLER = """
import sys; sys.path.insert(0, sys.argv[1])
import json, os
from pathlib import Path
from hostile.harness import Attack, changed
from minibox.store.state import Store
how = json.loads(sys.argv[3])
if how.pop("unsealed", False):
    how["change"] = changed("process.prepare", init="")
container = Attack(Store(), Path(sys.argv[2])).make([sys.argv[4]], **how)
try:
    container.start()
except Exception as error:
    print(error)
    sys.exit(1)
os.execv("/bin/sleep", ["sleep", "20"])
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A copy of the interpreter with this environment's packages."""
    home = tmp_path / "python"
    real = Path(os.path.realpath(sys.executable))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    (home / "lib" / version).mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "pyvenv.cfg").write_text(f"home = {real.parent}\n")
    (home / "lib" / version / "site-packages").symlink_to(packages)
    shutil.copy(real, home / "bin" / version)
    return home / "bin" / version


def loader_of(program: Path) -> str:
    """The path of an ELF file's dynamic loader: PT_INTERP."""
    head = program.read_bytes()[:4096]
    at = head.index(b"/lib")
    return head[at : head.index(b"\0", at)].decode()


@pytest.fixture
def assault(attack, own_root: Path, python: Path, tmp_path: Path):
    loader = own_root / loader_of(python).lstrip("/")
    loader.parent.mkdir(exist_ok=True)
    shutil.copy(own_root / "loader", loader)
    (own_root / "entry").write_text("#!/proc/self/exe\n")
    (own_root / "entry").chmod(0o755)
    (own_root / "entry-link").symlink_to("/proc/self/exe")

    def run(entry: str, **how: object) -> dict[str, str]:
        output = tmp_path / "output"
        with open(output, "wb") as file:
            caller = subprocess.Popen(
                [python, "-I", "-c", CALLER, str(Path(__file__).parents[1]), str(own_root), json.dumps(how), entry],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**os.environ, **stores(attack.store)},
            )  # fmt: skip
        try:
            # Either the attacker has come to its end, or there is no attacker: minibox-init had no work.
            wait_until(lambda: b"write " in output.read_bytes() or _childless(caller), 15)
        finally:
            caller.kill()
            caller.wait()
        return dict(line.split(None, 1) for line in output.read_text().splitlines() if line)

    return run


def _childless(caller: subprocess.Popen[bytes]) -> bool:
    """Whether the caller has become /bin/sleep and its container has ended."""
    try:
        if b"sleep" not in Path(f"/proc/{caller.pid}/comm").read_bytes():
            return caller.poll() is not None
        children = Path(f"/proc/{caller.pid}/task/{caller.pid}/children").read_text().split()
        return all(b") Z " in Path(f"/proc/{pid}/stat").read_bytes() for pid in children)
    except FileNotFoundError:
        return True


ENTRIES = ("/entry", "/entry-link")
HOST_ROOT = {"uidmap": ["0:0:65536"]}  # a user namespace whose root is the host's


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_unprivileged_root_can_reach_and_not_touch_it(assault, python, entry):
    """With a user namespace the runtime's python may well be run, by an owner who is nobody to it."""
    before = facts_of(python)
    found = assault(entry)
    assert facts_of(python) == before
    assert found == {"target": found["target"], "chmod": "EPERM", "first": "EACCES", "write": "EACCES"}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("how", [{"userns": "host"}, HOST_ROOT], ids=["userns-host", "uidmap-0"])
def test_the_hosts_root_finds_only_sealed_memory(assault, python, entry, how):
    before = facts_of(python)
    found = assault(entry, **how)
    assert facts_of(python) == before
    assert found.get("write") != "ok"
    assert "python" not in found.get("target", "")


@pytest.mark.parametrize("how", [{"userns": "host"}, HOST_ROOT], ids=["userns-host", "uidmap-0"])
def test_without_the_sealed_memory_it_is_overwritten(assault, python, how):
    before = facts_of(python)
    found = assault("/entry", unsealed=True, **how)
    assert found["chmod"] == "ok"
    assert found["write"] == "ok"
    assert facts_of(python) != before
    assert python.read_bytes().startswith(b"OWNED")


@pytest.mark.parametrize("how", [{}, {"userns": "host"}], ids=["default", "userns-host"])
def test_init_itself_is_sealed(attack, how):
    """/proc/1/exe of a running minibox-init, kept by O_PATH and opened for writing."""
    started = time.monotonic()
    ended = attack.sh("exec 9</proc/1/exe; /overwrite 9 20", init=True, **how)
    found = dict(line.split(None, 1) for line in ended.out.splitlines())
    assert "minibox-init" in found["target"]
    assert found["write"] in ("EPERM", "EACCES", "ETXTBSY")
    assert time.monotonic() - started < 15
