"""Running programs that a model wrote: contained, or not at all.

Each program is a `python -I -S -c` in a chain made by util-linux: `unshare` gives it PID, mount, network, IPC
and UTS namespaces of its own (as a user, also a user namespace), a script mounts a small root that is
read-only but for one tmpfs of limited size, and `setpriv` and `prlimit` take every privilege and set limits.
When the program ends or its time is over the PID namespace ends, and with it everything that it started, also
what called setsid; with the mount namespace the tmpfs goes. Nothing of it is left on the machine.

What each limit is for: the address space is a process's, so a program has at most `processes` times `memory`;
the network namespace has no way out; a chroot may not make user namespaces, so no capabilities come back; no
/proc is mounted. A process limit does not bind root, so as root every worker has a user id of its own, that
nobody else has.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bytelm.evals.following import PASSED, Outcome, followed

_TOOLS = ("unshare", "setpriv", "prlimit", "mount", "chroot", "timeout", "env", "sh")
_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_LONGEST = 131_000  # bytes of a program: Linux takes 128 KiB as one argument
_UIDS = (0x70000000, 1 << 28)  # above those that systems hand out
_FEW_UIDS = (50_000, 10_000)  # in a container that maps 65,536
_number = count()


@dataclass(frozen=True)
class Limits:
    """Of one program."""

    seconds: float = 3.0  # of the clock; of the processor, the same, rounded up
    memory: int = 1 << 30  # bytes of address space of a process
    processes: int = 8  # and threads
    files: int = 16 << 20  # bytes, all together
    names: int = 512  # files and folders
    output: int = 1 << 20  # bytes of standard output

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"the seconds of a program must be a finite number above 0, not {self.seconds}")


def checked(program: bytes) -> bytes:
    """The program with an end that says that it was reached: its status is then `PASSED`."""
    return program + b"\n\n__import__('sys').exit(%d)\n" % PASSED


class Sandbox:
    """Runs programs. Use it in a `with`: it has an empty folder as a place to mount on.

    `unsafe` runs programs where containment is missing, with limits but with the user's own rights. Without
    it RuntimeError says what is missing. `contained` tells which it was.
    """

    def __init__(self, limits: Limits | None = None, *, workers: int = 1, unsafe: bool = False):
        if workers < 1:
            raise ValueError(f"workers must be 1 or more, not {workers}")
        self.limits, self.workers = limits or Limits(), workers
        self.missing = missing()
        self.contained = not self.missing
        if self.missing and not unsafe:
            raise RuntimeError(
                f"no containment for programs that a model wrote: {self.missing}; "
                "use --unsafe to run them with your own rights"
            )
        self._place = tempfile.TemporaryDirectory(prefix="bytelm-")

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self._place.cleanup()

    def run(self, program: bytes, stdin: bytes = b"") -> Outcome:
        """Runs one program to its end, or to that of its time. Never raises for what the program does."""
        if b"\0" in program or len(program) > _LONGEST:
            why = b"a NUL byte in it" if b"\0" in program else b"longer than %d bytes" % _LONGEST
            return Outcome("refused", None, b"", why, 0.0)
        if self.contained:
            command = _contained(self.limits, self._place.name, program)
            return _followed(command, self.limits, stdin, "/")
        with tempfile.TemporaryDirectory(dir=self._place.name) as folder:
            return _followed(_bare(self.limits, program), self.limits, stdin, folder)

    def map(
        self, programs: Sequence[bytes], progress: Callable[[int], object] = lambda done: None
    ) -> Iterator[Outcome]:
        """The outcomes of programs, in their order, `workers` at a time; `progress(1)` after each."""
        with ThreadPoolExecutor(self.workers) as pool:
            for outcome in pool.map(self.run, programs):
                progress(1)
                yield outcome


@functools.cache
def missing() -> str:
    """What this machine lacks to contain programs, "" for nothing; found by trying, once."""
    if sys.platform != "linux":
        return f"namespaces of Linux, and this is {sys.platform}"
    lacking = [tool for tool in _TOOLS if _tool(tool) is None]
    if lacking:
        return f"the commands {', '.join(lacking)} (of util-linux and coreutils)"
    with tempfile.TemporaryDirectory(prefix="bytelm-") as place:
        limits = Limits(seconds=20, processes=4)
        outcome = _followed(_contained(limits, place, _PROBE), limits, b"", "/")
    if outcome.status == PASSED:
        return ""
    told = (outcome.output + outcome.errors).decode("utf-8", "replace").strip().splitlines()
    return f"namespaces ({told[-1] if told else outcome.verdict})"


# Run inside: what the chain should have brought about. Ten forks show whether the limit binds.
_PROBE = b"""
import os, socket
def wrong(what):
    print("not contained: " + what)
    raise SystemExit(1)
if os.getpid() > 40 or os.getppid() > 40: wrong("no PID namespace")
if set(os.environ) - {"LC_CTYPE"}: wrong("an environment")  # Python itself sets that one
if len(socket.if_nameindex()) > 1: wrong("a network")
for path in ("/", "/usr", "/tmp", "/dev", "/etc", "/var/tmp"):
    try: open(path + "/bytelm-probe", "w")
    except OSError: continue
    wrong("%s can be written to" % path)
open("probe", "w").write("here")
children = 0
for _ in range(10):
    try: child = os.fork()
    except OSError: break
    if not child:
        __import__("time").sleep(5); os._exit(0)
    children += 1
if children >= 10: wrong("no limit on processes")
with open("/dev/null", "w") as sink: sink.write("x")
if not any(map(str.isdigit, open("probe").read() + "1")): wrong("no place to write")
raise SystemExit(77)
"""

# The arguments: the place, options of the tmpfs, seconds, user id, then limits, --, and the program.
_SCRIPT = """
set -e
place=$1 options=$2 seconds=$3 uid=$4; shift 4
mount -n -t tmpfs -o size=1m,mode=755 none "$place"
cd "$place"
mkdir room dev etc
: > dev/null
mount -n --bind /dev/null dev/null
while [ "$1" != -- ]; do
  if [ -L "$1" ]; then cp -P "$1" "./$1"
  elif [ -d "$1" ]; then mkdir -p "./$1"; mount -n --bind -o ro,nosuid "$1" "./$1"
  elif [ -e "$1" ]; then : > "./$1"; mount -n --bind -o ro,nosuid "$1" "./$1"
  fi
  shift
done
shift
mount -n -o remount,ro none "$place"
mount -n -t tmpfs -o "$options" none room
set +e
timeout -s KILL "$seconds" chroot "$place" env -C /room setpriv --reuid "$uid" --regid "$uid" $DROP \
--no-new-privs --bounding-set=-all --inh-caps=-all "$@"
exit $?
"""


def _contained(limits: Limits, place: str, program: bytes) -> list[str | bytes]:
    root = os.geteuid() == 0
    uid = _uid() if root else 0  # of a user namespace: there 0 is the user
    owner = f"uid={uid},gid={uid}," if root else ""
    options = f"{owner}mode=700,size={limits.files},nr_inodes={limits.names},nosuid,nodev"
    python = os.path.realpath(sys.executable)
    roots = [*_SYSTEM]
    for path in (os.path.realpath(sys.base_prefix), os.path.dirname(python)):
        if not any(Path(path).is_relative_to(known) for known in roots):
            roots.append(path)
    drop = "--clear-groups" if root else "--keep-groups"
    return [
        *(_named("setpriv"), "--pdeathsig", "KILL"),
        *(_named("unshare"), "--fork", "--kill-child", "--pid", "--mount", "--net", "--ipc", "--uts"),
        *([] if root else ["--user", "--map-root-user"]),
        *(_named("sh"), "-c", _SCRIPT.replace("$DROP", drop), "sh"),
        *(place, options, str(limits.seconds + 5), str(uid), *roots, "--"),
        *_program(limits, python, program),
    ]


def _bare(limits: Limits, program: bytes) -> list[str | bytes]:
    run = _program(limits, os.path.realpath(sys.executable), program)
    return run if _tool("prlimit") else run[run.index("--") + 1 :]


def _program(limits: Limits, python: str, program: bytes) -> list[str | bytes]:
    seconds = int(-(-limits.seconds // 1))
    return [
        *("prlimit", f"--as={limits.memory}", f"--cpu={seconds}:{seconds + 1}", f"--fsize={limits.files}"),
        *(f"--nproc={limits.processes}", "--nofile=64", "--core=0", "--"),
        *(_named("env"), "-i", python, "-I", "-S", "-X", "utf8", "-c", program),
    ]


def _uid() -> int:
    """A user id that nobody has, another one for each program that runs at a time."""
    first, several = _UIDS
    try:
        mapped = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
        if mapped <= first + several:
            first, several = _FEW_UIDS
    except OSError:
        pass
    return first + (os.getpid() * 1009 + next(_number)) % several


def _tool(name: str) -> str | None:
    return shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin:" + os.environ.get("PATH", ""))


def _named(name: str) -> str:
    return _tool(name) or name


def _followed(command: Sequence[str | bytes], limits: Limits, stdin: bytes, folder: str) -> Outcome:
    return followed(command, stdin, folder, seconds=limits.seconds, output=limits.output)
