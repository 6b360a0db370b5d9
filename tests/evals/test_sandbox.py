"""Attacks, each capped, and what is left of them: nothing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from bytelm.evals import sandbox
from bytelm.evals.sandbox import Limits, Sandbox, checked

SHORT = Limits(seconds=2.0, output=10_000)
MARK = "bytelm_attack_mark"


@pytest.fixture(scope="module")
def box():
    if sandbox.missing():
        pytest.skip(f"no containment here: {sandbox.missing()}")
    with Sandbox(SHORT, workers=2) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    """After each attack no process that holds its mark, and no file, is on the machine."""
    yield
    if "box" not in request.fixturenames:
        return
    deadline = time.monotonic() + 5
    while (left := _marked()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    place = Path(request.getfixturevalue("box")._place.name)
    assert list(place.iterdir()) == []
    assert not any(str(place) in line for line in Path("/proc/self/mountinfo").read_text().splitlines())


def _marked() -> list[str]:
    """Processes of the machine, ours excepted, whose command line has the mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if MARK.encode() in line and int(process.name) != os.getpid():
            found.append(line.decode("utf-8", "replace")[-200:])
    return found


def attack(text: str) -> bytes:
    return f"# {MARK}\nimport os, sys, time\n{text}\n".encode()


def test_verdicts(box):
    """A program passes only if its end is reached; control: each other way to end."""
    assert box.run(checked(b"assert 1 + 1 == 2")).verdict == "passed"
    for wrong in (b"assert 1 + 1 == 3", b"exit()", b"import os; os._exit(0)", b"def f(:", b"\xff"):
        assert box.run(checked(wrong)).verdict == "failed", wrong
    assert box.run(b"a\0b").verdict == "refused"
    assert box.run(b"#" * 200_000).verdict == "refused"
    told = box.run("import sys; print('é' + sys.stdin.read())".encode(), b"said\n" * 50_000)
    assert told.verdict == "output"
    told = box.run("import sys; print('é' + sys.stdin.read())".encode(), b"said")
    assert told.output == "ésaid\n".encode()


def test_many_programs_keep_their_order(box):
    done: list[int] = []
    outcomes = list(box.map([b"print(%d)" % i for i in range(6)], done.append))
    assert [o.output for o in outcomes] == [b"%d\n" % i for i in range(6)]
    assert done == [1] * 6


def test_infinite_loop_and_sleep(box):
    for text in ("while True: pass", "time.sleep(100)"):
        outcome = box.run(attack(text))
        # The limit of the processor may come first where the clock's is the same.
        assert outcome.verdict in ("timeout", "failed")
        assert outcome.seconds < 10


def test_forks(box):
    """Ten first: the limit must bind before more are tried."""
    ten = "n = 0\nfor _ in range(10):\n  try: child = os.fork()\n  except OSError: break\n"
    ten += "  if not child: time.sleep(30); os._exit(0)\n  n += 1\nprint(n)"
    outcome = box.run(attack(ten))
    assert int(outcome.output) < SHORT.processes, outcome
    outcome = box.run(attack("while True:\n  try: os.fork()\n  except OSError: pass"))
    assert outcome.verdict in ("timeout", "failed")


def test_sessions_and_daemons(box):
    """What left the session and was given to another parent ends with its program."""
    daemon = "if not os.fork():\n  os.setsid()\n  if not os.fork():\n    for i in range(3): os.close(i)\n"
    daemon += "    time.sleep(60)\n  os._exit(0)\nos.wait()\nprint('done')"
    outcome = box.run(attack(daemon))
    assert outcome.output == b"done\n"
    assert outcome.status == 0


def test_ten_gigabytes(box):
    outcome = box.run(attack("x = bytearray(10 * 2**30)"))
    assert outcome.verdict == "failed"
    assert b"MemoryError" in outcome.errors


def test_one_huge_file_and_many_small_ones(box):
    huge = "with open('f', 'wb') as f:\n  for _ in range(64): f.write(bytes(2**20))"
    outcome = box.run(attack(huge))
    assert outcome.verdict == "failed"
    several = "for n in range(8):\n  f = open(str(n), 'wb')\n  f.write(bytes(3 * 2**20))"
    outcome = box.run(attack(several))
    assert b"No space left" in outcome.errors
    many = "for n in range(5000): open(str(n), 'w').close()"
    outcome = box.run(attack(many))
    assert b"No space left" in outcome.errors
    # The control: what is allowed works, and the next program finds the place empty.
    outcome = box.run(attack("open('f', 'wb').write(bytes(2**20)); print(os.listdir('.'))"))
    assert outcome.output == b"['f']\n"


def test_endless_output(box):
    for stream in ("stdout", "stderr"):
        outcome = box.run(attack(f"while True: sys.{stream}.write('x' * 65536)"))
        assert outcome.verdict in ("output", "timeout", "failed")
        assert len(outcome.output) <= SHORT.output
        assert len(outcome.errors) <= 4096


def test_writing_outside(box):
    text = "import stat\nfor folder in ('/', '..', '/tmp', '/usr', '/etc', '/dev', '/dev/shm', '/var/tmp',"
    text += " '/root', '/home', os.path.dirname(os.__file__)):\n"
    text += f"  try: open(folder + '/{MARK}', 'w')\n  except OSError: continue\n  print('wrote', folder)\n"
    outcome = box.run(attack(text + "print('end')"))
    assert outcome.output == b"end\n"
    assert not Path(f"/tmp/{MARK}").exists()


def test_files_of_the_machine_are_not_there(box, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("s")
    os.chmod(secret, 0o644)
    outcome = box.run(attack(f"print(open({str(secret)!r}).read())"))
    assert b"FileNotFoundError" in outcome.errors


def test_killing_its_parent(box):
    text = "import signal\nfor who in (os.getppid(), 1, -1, %d):\n  try: os.kill(who, signal.SIGKILL)\n"
    text += "  except OSError: pass\n"
    outcome = box.run(attack(text % os.getpid()))
    assert outcome.verdict == "failed"  # -1 may have ended itself; this process is alive to say so


def test_sockets(box):
    """A listener of the machine is not reached; control: it is from outside."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1)"
        outcome = box.run(attack(text))
        assert b"Error" in outcome.errors
        assert outcome.status != 0
        subprocess.run([sys.executable, "-c", text], check=True)


def test_environment(box, monkeypatch):
    monkeypatch.setenv("SECRET", "s")
    outcome = box.run(attack("print(sorted(set(os.environ) - {'LC_CTYPE'}))"))
    assert outcome.output == b"[]\n"


def test_no_privileges(box):
    """Not root where root runs it; no new user namespace, which would give capabilities back."""
    if os.geteuid() == 0:
        assert int(box.run(attack("print(os.getuid())")).output) != 0
    text = "import ctypes\nlibc = ctypes.CDLL(None)\nprint(libc.unshare(0x10000000), libc.chroot(b'.'))"
    assert box.run(attack(text)).output == b"-1 -1\n"


def test_the_death_of_the_one_who_runs_it(box):
    """Killed with SIGKILL, it leaves nothing running."""
    code = "import sys\nfrom bytelm.evals.sandbox import Limits, Sandbox\n"
    code += "with Sandbox(Limits(seconds=60)) as box: box.run(sys.argv[1].encode())"
    process = subprocess.Popen([sys.executable, "-c", code, attack("time.sleep(60)").decode()])
    deadline = time.monotonic() + 20
    while len(_marked()) < 3 and time.monotonic() < deadline:  # itself, and the chain below it
        time.sleep(0.05)
    assert len(_marked()) >= 3
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # The folder that it could not take away is empty: nothing was mounted in our sight.
    for folder in Path(tempfile.gettempdir()).glob("bytelm-*"):
        recent = time.time() - folder.stat().st_mtime < 60
        if recent and not list(folder.iterdir()) and str(folder) != box._place.name:
            shutil.rmtree(folder, ignore_errors=True)


def test_refuses_without_containment(monkeypatch):
    """It names what is missing; `unsafe` runs the program all the same, with its limits."""
    monkeypatch.setattr(sandbox, "missing", lambda: "the commands unshare")
    with pytest.raises(RuntimeError, match=r"the commands unshare; use --unsafe"):
        Sandbox()
    with Sandbox(Limits(seconds=1.5, memory=1 << 28), unsafe=True) as made:
        assert not made.contained
        assert made.run(checked(b"open('x', 'w').close()")).verdict == "passed"
        assert made.run(b"import time; time.sleep(9)").verdict == "timeout"
        assert b"MemoryError" in made.run(b"bytearray(10 * 2**30)").errors


def test_what_is_missing_is_named(monkeypatch):
    sandbox.missing.cache_clear()
    monkeypatch.setattr(sandbox, "_tool", lambda name: None if name in ("unshare", "mount") else name)
    assert sandbox.missing() == "the commands unshare, mount (of util-linux and coreutils)"
    monkeypatch.undo()
    sandbox.missing.cache_clear()
    monkeypatch.setattr(sandbox, "_PROBE", b"print('not contained: a network'); raise SystemExit(1)")
    if shutil.which("unshare"):
        assert sandbox.missing() != ""
    sandbox.missing.cache_clear()


def test_bad_usage():
    with pytest.raises(ValueError, match="workers"):
        Sandbox(workers=0)
