# ruff: noqa: E501  (tables of words)
"""interpreter-hijack (the shape of CVE-2019-14271): code of the image, loaded by the runtime inside the root.

The root has a poisoned standard library at the host's own paths, a poisoned minibox, an NSS library, a
message catalogue with the converter for its character set, and ld.so.preload.  Each writes HIJACKED to
the runtime's stderr.  Then every error that can happen behind the pivot is made to happen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import compile_c

from hostile.harness import script, stores

MARK = "HIJACKED"
POISON = f"import os\nos.write(2, b'{MARK} by ' + __name__.encode() + b'\\n')\n"
LIBRARY = f"""
#include <unistd.h>
__attribute__((constructor)) static void run(void) {{ write(2, "{MARK} by a library\\n", {len(MARK) + 14}); }}
int gconv(void) {{ return 1; }}
int gconv_init(void) {{ return 1; }}
"""

#: the caller: a program that, as many do, asks for the user's language before it uses minibox
CALLER = """
import locale, sys
locale.setlocale(locale.LC_ALL, "")
from pathlib import Path
from hostile.harness import Attack
from minibox.plan import ops
from minibox.runtime import child
from minibox.store.state import Store
ABLATION
attack = Attack(Store(), Path(sys.argv[1]))
for argv, how in (
    (["/none"], {}), (["none"], {}), (["/not-a-program"], {}), (["/etc"], {}), (["/script"], {}), (["/alien"], {}),
    (["true"], {"user": "nobody-there"}), (["true"], {"user": "0:nobody-there"}), (["true"], {"user": "-1"}),
    (["true"], {"user": "root", "group_add": ["none"]}), (["true"], {"workdir": "/etc/passwd/below"}),
    (["true"], {"workdir": "/proc/self/fd/3"}), (["true"], {"volume": ["/etc/hosts:/dangling/x"]}),
    (["true"], {"volume": ["/etc/hosts:/etc"]}), (["true"], {"tmpfs": ["/etc/hosts/x"]}),
    (["true"], {"ulimit": ["nofile=3"]}), (["true"], {"rootfs": Path(sys.argv[1] + "-no-proc")}),
    (["true"], {"env": ["LC_ALL=C.UTF-8"]}),
):
    ended = attack(*argv, **how)
    sys.stderr.write(ended.err)
    print(ended.code, str(ended.error).split(chr(10))[0])
"""


@pytest.fixture
def poisoned(own_root: Path) -> Path:
    library = own_root / "hijack.so"
    compile_c(LIBRARY, library, ("-shared", "-fPIC"))
    stdlib = {Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib"))}
    packages = {Path(path) for path in sys.path if path.endswith("site-packages")}
    package = Path(sys.modules["minibox"].__file__ or "").parent
    for directory in stdlib | packages:
        place = own_root / directory.relative_to("/")
        place.mkdir(parents=True, exist_ok=True)
        for name in sys.stdlib_module_names:
            (place / f"{name}.py").write_text(POISON)
        for name in ("encodings", "json", "importlib"):
            (place / name).mkdir(exist_ok=True)
            for module in (
                "__init__",
                "idna",
                "punycode",
                "latin_1",
                "ascii",
                "unicode_escape",
                "cp1252",
                "decoder",
            ):
                (place / name / f"{module}.py").write_text(POISON)
        (place / "lib-dynload").mkdir(exist_ok=True)
        for name in ("_json", "resource", "_lsprof", "audioop"):
            shutil.copy(library, place / "lib-dynload" / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}")
    for source in package.rglob("*.py"):
        target = own_root / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(POISON)
    triplet = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    for place in (f"lib/{triplet}", f"usr/lib/{triplet}", "lib", "lib64", "usr/lib"):
        (own_root / place / "gconv").mkdir(parents=True, exist_ok=True)
        for name in ("libnss_hijack.so.2", "libgcc_s.so.1", "gconv/ISO8859-15.so"):
            shutil.copy(library, own_root / place / name)
    (own_root / "etc/nsswitch.conf").write_text("passwd: hijack\ngroup: hijack\nhosts: hijack\n")
    (own_root / "etc/ld.so.preload").write_text("/hijack.so\n")
    _catalogue(own_root / "usr/share/locale/xx/LC_MESSAGES/libc.mo")
    (own_root / "not-a-program").write_text("x")
    (own_root / "not-a-program").chmod(0o755)
    (own_root / "script").write_text("#!/none\n")
    (own_root / "script").chmod(0o755)
    (own_root / "alien").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(60))
    (own_root / "alien").chmod(0o755)
    (own_root / "dangling").symlink_to("/nowhere")
    shutil.copytree(own_root, f"{own_root}-no-proc", symlinks=True)
    shutil.rmtree(f"{own_root}-no-proc/proc")
    Path(f"{own_root}-no-proc/proc").symlink_to("/tmp")
    return own_root


def _catalogue(path: Path) -> None:
    """A translation of the C library's messages that needs a converter: gettext's .mo format."""
    import struct

    messages = [(b"", b"Content-Type: text/plain; charset=ISO-8859-15\n")]
    for number in sorted(range(1, 134)):
        text = os.strerror(number).encode()
        messages.append((text, b"translated \xa4"))
    messages = sorted(dict(messages).items())
    count = len(messages)
    heads: list[bytes] = []
    strings = b""
    base = 28 + 16 * count
    for side in (0, 1):
        for message in messages:
            heads.append(struct.pack("=II", len(message[side]), base + len(strings)))
            strings += message[side] + b"\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack("=7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0) + b"".join(heads) + strings
    )


def run(attack, root, ablation=""):
    source = CALLER.replace("ABLATION", ablation)
    return script(source, root, env={**stores(attack.store), "LC_ALL": "C.UTF-8", "LANGUAGE": "xx"})


def test_no_error_path_runs_anything(attack, poisoned):
    done = run(attack, poisoned)
    assert done.returncode == 0, done.stderr
    assert MARK not in done.stderr
    codes = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert len(codes) == 18
    assert codes[:6] == [127, 127, 126, 126, 126, 126]
    assert set(codes[6:15]) == {125}
    assert codes[17] == 0


#: an import in the child, behind the pivot
IMPORT = """
real = ops.ResolveUser.perform
def perform(self, ctx):
    import colorsys
    return real(self, ctx)
ops.ResolveUser.perform = perform
"""
ARMED = """
def disarm():
    import _locale
    _locale.setlocale(_locale.LC_ALL, "C")
child.disarm = disarm
"""


def test_an_import_fails_in_the_child(attack, poisoned):
    done = run(attack, poisoned, IMPORT)
    assert MARK not in done.stderr
    assert "ModuleNotFoundError" in done.stdout


def test_without_the_tripwire_an_import_runs_the_images_code(attack, poisoned):
    assert f"{MARK} by colorsys" in run(attack, poisoned, IMPORT + ARMED).stderr


def test_users_looked_up_by_the_c_library_would_run_the_images_code(attack, poisoned):
    ablation = """
import pwd
def perform(self, ctx):
    pwd.getpwnam("nobody-there")
ops.ResolveUser.perform = perform
"""
    assert f"{MARK} by a library" in run(attack, poisoned, ablation).stderr


#: the C library keeps what it found, or did not, so that the first look-up of a process is what counts; most
#: made on the host.  Not so in `exec`, when another thread sets the locale just before the clone: a fork hook
#: stands for that thread here.
LATE = """
import locale, os, sys
from pathlib import Path
from hostile.harness import Attack
from minibox.runtime import child
from minibox.store.state import Store
attack = Attack(Store(), Path(sys.argv[1]))
with attack.running("sh", "-c", "echo up; exec sleep 30") as container:
    ABLATION
    os.register_at_fork(before=lambda: locale.setlocale(locale.LC_ALL, ""))
    ended = attack.exec(container.state["id"], "/none")
print(ended.code)
sys.stderr.write(ended.err)
"""


def late(attack, root, ablation="pass"):
    environment = {**stores(attack.store), "LC_ALL": "C.UTF-8", "LANGUAGE": "xx"}
    done = script(LATE.replace("ABLATION", ablation), root, env=environment)
    assert done.stdout == "127\n", done.stderr
    return done.stderr


def test_messages_in_the_callers_language_are_not_looked_up(attack, poisoned):
    """strerror(3) reads a catalogue and loads a converter: the child has gone back to the C locale."""
    assert MARK not in late(attack, poisoned)


def test_messages_in_the_callers_language_would_run_the_images_code(attack, poisoned):
    known = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout
    if "C.utf8" not in known:
        pytest.skip("this C library has no C.UTF-8 locale")
    ablation = "import types; child._locale = types.SimpleNamespace(setlocale=lambda *words: None, LC_ALL=6)"
    assert f"{MARK} by a library" in late(attack, poisoned, ablation)


def test_what_an_error_quotes_of_the_image_is_plain(attack, own_root):
    (own_root / "script").write_text("#!\x1b]0;hijacked\x07/none\n")
    (own_root / "script").chmod(0o755)
    text = str(attack("/script", rootfs=own_root).error)
    assert "\\x1b]0;hijacked\\x07" in text
    assert "\x1b" not in text
