"""Imports point one way, and the hot verbs import little."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOTFS

import minibox as package

TOP = Path(package.__file__).parent
#: who may import whom: a layer, and those below it.  Layers of one line do not know each other.
ORDER = (
    ("__main__",),
    ("cli",),
    ("api", "doctor"),
    ("runtime",),
    ("store", "plan"),
    ("spec", "seccomp", "cgroup"),
    ("kernel",),
    ("errors", "fastjson", "record", "_native"),
)
#: imports of the same or a lower line that are meant, and why
ALLOWED = {
    ("plan", "cgroup"): "which groups there are is a part of the Plan",
    ("cgroup", "spec"): "the limits of a Spec become files of a group",
    ("spec", "cgroup"): "device rules are written as cgroups have them",
    ("kernel", "cgroup"): "the probed Host has the cgroup hierarchies as one of its facts",
    ("kernel", "seccomp"): "the table of system call numbers",
    ("spec", "seccomp"): "a flag names the handler of calls that are asked about",
    ("doctor", "api"): "a trial is a run",
}
#: modules that cost more than they give a start: milliseconds each
HEAVY = (
    "argparse",
    "dataclasses",
    "typing",
    "pathlib",
    "subprocess",
    "logging",
    "re",
    "json",
    "pyseccomp",
    "pyroute2",
    "enum",
    "socket",
    "signal",
    "traceback",
    "tempfile",
    "shutil",
    "inspect",
    "importlib.metadata",
)


def layer(module: str) -> str:
    """The layer that `minibox.plan.ops` is in: plan."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def rank(name: str) -> int:
    return next(place for place, names in enumerate(ORDER) if name in names)


def imports(path: Path, *, everywhere: bool) -> list[str]:
    """The minibox modules that a file imports; with `everywhere` also those within functions, without
    those for the type checker."""
    tree = ast.parse(path.read_text())
    skipped = {id(node) for block in ast.walk(tree) if is_type_checking(block) for node in ast.walk(block)}
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    found = []
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0] == "minibox" and layer(name)]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


FILES = {str(path.relative_to(TOP)): path for path in sorted(TOP.rglob("*.py")) if path.name != "__init__.py"}


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    own = name.split("/")[0].removesuffix(".py")
    for imported in imports(FILES[name], everywhere=True):
        other = layer(imported)
        if other == own or other.startswith("__") or (own, other) in ALLOWED:
            continue
        assert rank(own) < rank(other), f"{name} imports {imported}"


def test_the_kernel_layer_knows_nothing_above_it_but_two_facts():
    above = {}
    for name, path in FILES.items():
        if name.startswith("kernel/"):
            others = {layer(one) for one in imports(path, everywhere=True)} - {
                "kernel",
                "errors",
                "record",
                "fastjson",
                "_native",
            }
            if others:
                above[name] = others
    assert above.pop("kernel/host.py", {"cgroup"}) == {"cgroup"}
    assert above.pop("kernel/ask.py", {"seccomp"}) == {"seccomp"}
    assert above == {}


def test_plans_do_not_know_how_they_are_run():
    for name, path in FILES.items():
        if name.startswith(("plan/", "spec/", "kernel/", "cgroup/", "seccomp/")):
            assert not {layer(one) for one in imports(path, everywhere=True)} & {
                "runtime",
                "cli",
                "store",
                "api",
            }, name


@pytest.mark.parametrize("name", FILES)
def test_no_file_imports_what_is_slow_at_its_top_unless_it_is_never_on_the_hot_path(name):
    """Which is what the test below shows by running; this one names the file."""
    cold = (
        "doctor/",
        "seccomp/compile.py",
        "seccomp/profile.py",
        "seccomp/",
        "cli/doctor.py",
        "cli/seccomp.py",
        "runtime/verify.py",
        "kernel/ask.py",
    )
    if name.startswith(cold):
        return
    tree = ast.parse(FILES[name].read_text())
    found = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    found += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not set(found) & set(HEAVY)


# --- the hot path ------------------------------------------------------------------------------------------

#: runs a verb in this process, and looks at sys.modules at the moment of every clone and at the end
WATCHED = """
import os, sys
from minibox.cli import main
from minibox.kernel import calls
seen = set()
def watch(function):
    def watched(*args, **kwargs):
        seen.update(sys.modules)
        return function(*args, **kwargs)
    return watched
calls.clone3 = watch(calls.clone3)
os.fork = watch(os.fork)
code = main.dispatch(sys.argv[2:])
seen.update(sys.modules)
os.write(int(sys.argv[1]), " ".join(sorted(seen)).encode())
sys.stdout.flush()
os._exit(code)
"""


def modules_of(minibox, *words: object) -> set[str]:
    """What is in sys.modules in the course of a verb, which succeeds."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", WATCHED, str(writing), *map(str, words)],
        env=minibox.environment,
        pass_fds=[writing],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        found = pipe.read().decode().split()
    process.communicate()
    assert process.returncode == 0
    assert "minibox.cli.main" in found
    return set(found)


def at_start() -> set[str]:
    """What Python itself, and whatever a .pth of this environment does, imports before us."""
    out = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"], capture_output=True, check=True
    )
    return set(out.stdout.decode().split())


HOT = {
    "run": ("run", ROOTFS, "true"),
    "run with flags": (
        "run",
        "-e",
        "A=1",
        "-v",
        "/etc:/x:ro",
        "--tmpfs",
        "/t",
        "--user",
        "0:0",
        "--ulimit",
        "nofile=99",
        "--hostname",
        "web",
        "--cap-drop",
        "ALL",
        "--init",
        ROOTFS,
        "true",
    ),
    "run --rm --name": ("run", "--rm", "--name", "named", "-w", "/srv", ROOTFS, "true"),
    "run -d": ("run", "-d", ROOTFS, "true"),
    "exec": ("exec", "one", "true"),
    "kill": ("kill", "-s", "0", "one"),
    "stop": ("stop", "one"),
    "rm": ("rm", "-f", "one"),
}


@pytest.mark.parametrize("words", HOT.values(), ids=HOT)
def test_the_hot_verbs_import_nothing_slow(minibox, rootfs, words):
    minibox("run", "-d", "--name", "one", rootfs, "sleep", "60")
    if words[0] == "run":
        minibox(*words)  # fills the cache of filters
    heavy = modules_of(minibox, *words) & set(HEAVY)
    assert heavy - at_start() == set()


def test_the_hot_verbs_import_only_their_own_part_of_minibox(minibox, rootfs):
    minibox("run", "-d", "--name", "one", rootfs, "sleep", "60")
    assert not modules_of(minibox, "run", rootfs, "true") & {
        "minibox.cli.help",
        "minibox.cli.manage",
        "minibox.runtime.verify",
        "minibox.seccomp.compile",
        "minibox.api",
        "minibox.seccomp.profile",
        "minibox.plan.show",
    }
    assert not modules_of(minibox, "rm", "-f", "one") & {
        "minibox.seccomp.compile",
        "minibox.api",
        "minibox.cli.help",
    }


def test_a_number_of_modules_is_not_crept_past(minibox, rootfs):
    """Each costs a tenth of a millisecond at least."""
    minibox("run", rootfs, "true")
    own = [name for name in modules_of(minibox, "run", rootfs, "true") if name.startswith("minibox")]
    assert len(own) <= 60, sorted(own)


#: operations of the supervisor's side that import when they are performed, which is before the clone
BEFORE_THE_CLONE = {"FilterDevices"}


@pytest.mark.parametrize(
    "name", ["runtime/child.py", "plan/ops.py", "plan/context.py", "kernel/inroot.py", "kernel/users.py"]
)
def test_what_runs_between_clone_and_execve_has_no_import_inside_a_function(name):
    body = ast.parse(FILES[name].read_text()).body
    classes = [node for node in body if getattr(node, "name", "") not in BEFORE_THE_CLONE]
    functions = [one for node in classes for one in ast.walk(node) if isinstance(one, ast.FunctionDef)]
    inner = [
        ast.unparse(node)
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert inner == []
