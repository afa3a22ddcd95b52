"""Python environments of their own, for tools whose libraries cannot live beside ours; made once, on first use.

~/.cache/trimtab/environments/tf-2f1c0a9e/        the name and a hash of what is in it ($TRIMTAB_CACHE where set)
    bin/python, ...
    ready                                         written last: a folder without it is made again
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trimtab.errors import DataError, OutputError
from trimtab.values.store import default_root

SECONDS = 3600
READY = "ready"


def interpreter(name: str, pins: Sequence[str], about: str) -> Path:
    """Return the Python of the environment with these pinned distributions, making it first where it is not there.

    Only wheels are installed, so that no package's code runs while installing. $TRIMTAB_NAME_PYTHON, with the
    environment's name in capitals, names an interpreter that has them already.

    Raises:
        DataError: the environment cannot be made; says what to do by hand.
        OutputError: the cache cannot be written.
    """
    variable = f"TRIMTAB_{name.upper()}_PYTHON"
    if os.environ.get(variable):
        return Path(os.environ[variable])
    text = f"{sys.version_info[:2]} {' '.join(pins)}"
    folder = default_root().absolute() / "environments" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    python = folder / "bin" / "python"
    try:
        with _alone(folder):
            if not (folder / READY).is_file():
                print(f"making an environment for {about} in {folder}: once, a few minutes", file=sys.stderr)
                shutil.rmtree(folder, ignore_errors=True)
                _run([sys.executable, "-m", "venv", str(folder)], name, variable, pins)
                options = ["--only-binary", ":all:", "--quiet", "--disable-pip-version-check", "--retries", "2"]
                _run([str(python), "-m", "pip", "install", *options, *pins], name, variable, pins)
                (folder / READY).write_text(text)
    except OSError as error:
        raise OutputError(f"cannot keep environments in {folder.parent}: {error}; set TRIMTAB_CACHE") from error
    return python


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str], name: str, variable: str, pins: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        reason = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
        failed = done.returncode != 0
    except subprocess.TimeoutExpired as error:
        failed, reason = True, str(error)
    if failed:
        raise DataError(
            f"the environment for {name} cannot be made: {reason}; make one by hand, with "
            f"`pip install {' '.join(pins)}`, and name its interpreter in {variable}"
        )
