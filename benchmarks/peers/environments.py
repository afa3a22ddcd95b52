"""Makes the virtual environment of a peer, outside the repository: what one tool pins must not spoil another's.

A peer's script names what it needs in its header, as the standard on inline script metadata says (PEP 723):

    # /// script
    # dependencies = ["torch==2.13.0", "torchao==0.18.0"]
    # ///

The environment lies in the user's cache under a hash of these lines, of the constraints and of the interpreter, so that
it is made once. torch comes first, from wherever pip finds a build for processors; an environment that would bring
CUDA's packages is refused before anything is fetched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.values.store import default_root

ROOT = Path(__file__).resolve().parent.parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
HEADER = re.compile(r"^# /// script\n(?P<lines>(?:#(?: .*)?\n)+?)# ///$", re.M)
READY = "ready.json"
INSTALL_S = 3600.0
CUDA = ("nvidia-", "cuda-", "triton")


class NoEnvironment(Exception):
    """The environment cannot be made; the message is the reason that stands beside the dash."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, made or to be made."""

    folder: Path
    needs: tuple[str, ...]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"


def requirements(script: Path) -> tuple[str, ...]:
    """Return the pinned requirements in a script's header; raises NoEnvironment where it has none."""
    found = HEADER.search(script.read_text())
    if not found:
        raise NoEnvironment(f"{script.name} has no header '# /// script' that names what it needs")
    lines = [line.removeprefix("#").removeprefix(" ") for line in found["lines"].splitlines()]
    needs = tuple(tomllib.loads("\n".join(lines)).get("dependencies", ()))
    loose = [need for need in needs if "==" not in need]
    if loose:
        raise NoEnvironment(f"{script.name} does not pin {', '.join(loose)}")
    return needs


def environment(script: Path) -> Environment:
    """Return the environment of a script, whether it was made or not."""
    needs = requirements(script)
    key = hashlib.sha256(json.dumps([needs, CONSTRAINTS.read_text(), sys.version]).encode()).hexdigest()[:12]
    return Environment(default_root() / "peers" / f"{script.stem}-{key}", needs)


def made(script: Path) -> Environment:
    """Return the environment of a script, making it first where it is not there.

    Raises:
        NoEnvironment: pip failed, or would bring CUDA's packages.
    """
    found = environment(script)
    if not (found.folder / READY).is_file():
        _make(found)
    return found


def _make(wanted: Environment) -> None:
    """Make it in its place, because virtual environments cannot be moved; `READY` comes last."""
    shutil.rmtree(wanted.folder, ignore_errors=True)
    wanted.folder.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(wanted.folder)])
    torch = [need for need in wanted.needs if need.startswith("torch==")]
    for needs in filter(None, (torch, list(wanted.needs))):
        _refuse_cuda(wanted, needs)
        _run(_pip(wanted, "install", "-q", *needs))
    freeze = _run(_pip(wanted, "freeze", constrained=False)).splitlines()
    (wanted.folder / READY).write_text(json.dumps({"needs": wanted.needs, "installed": freeze}, indent=1))


def _pip(where: Environment, *words: str, constrained: bool = True) -> list[str]:
    bounds = ["-c", str(CONSTRAINTS)] if constrained else []
    return [str(where.python), "-m", "pip", "--disable-pip-version-check", *words, *bounds]


def _refuse_cuda(where: Environment, needs: Sequence[str]) -> None:
    report = where.folder / f"report-{uuid.uuid4().hex[:8]}.json"
    _run(_pip(where, "install", "-q", "--dry-run", "--report", str(report), *needs))
    names = [each["metadata"]["name"].lower() for each in json.loads(report.read_text())["install"]]
    cuda = sorted(name for name in names if name.startswith(CUDA) and name != "nvidia-ml-py")
    if cuda:
        raise NoEnvironment(
            f"it would bring {len(cuda)} packages of CUDA ({cuda[0]}, ...); point pip at torch's builds for "
            "processors, as with PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"
        )


def _run(command: list[str]) -> str:
    """Return what a command prints; raises NoEnvironment with its last line."""
    quiet = {**os.environ, "PIP_NO_INPUT": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, env=quiet)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoEnvironment(f"{' '.join(command[:6])}: {error}") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        wrong = [line for line in lines if line.startswith("ERROR")] or lines or [f"status {done.returncode}"]
        raise NoEnvironment(f"pip failed: {wrong[0][:300]}")
    return done.stdout
