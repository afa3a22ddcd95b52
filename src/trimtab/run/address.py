"""Addresses of other machines, and what they tell of themselves: `ssh:me@box:2222?python=/venv/bin/python`.

Everything goes through the user's own `ssh`, with the user's own configuration, keys and known hosts; it never asks
for a password (BatchMode). $TRIMTAB_REMOTE_PYTHON names the interpreter there where the address does not (`python3`
else), and $TRIMTAB_SSH another ssh command, such as `ssh -F box.config`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from typing import Any

from trimtab.errors import SessionError, UsageError

PREFIX = "ssh:"
ADDRESS = re.compile(
    r"ssh:(?P<host>(?:\w[\w.+-]*@)?(?:\w[\w.-]*|\[[0-9A-Fa-f:.]+\]))"
    r"(?::(?P<port>\d{1,5}))?(?:\?python=(?P<python>\S+))?\Z"
)
OPTIONS = (
    *("-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"),
    *("-o", "ControlMaster=no", "-o", "ControlPath=none"),  # a worker ends with its own connection
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"),
)
LOST = 255
"""Exit status of ssh itself."""
PROBE_S = 60.0
NO_COMMAND = (126, 127)


@dataclass(frozen=True)
class Address:
    """A remote machine and the interpreter on it that has trimtab.

    >>> Address.parse("ssh:me@box:2222?python=/venv/bin/python")
    Address(host='me@box', port=2222, python='/venv/bin/python')
    """

    host: str
    port: int | None = None
    python: str = "python3"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address; raises UsageError."""
        found = ADDRESS.match(text)
        if not found:
            raise UsageError(
                f"{text!r} is no address; it looks like ssh:me@box, or ssh:box:2222?python=/venv/bin/python"
            )
        python = found["python"] or os.environ.get("TRIMTAB_REMOTE_PYTHON") or cls.python
        return cls(
            found["host"].replace("[", "").replace("]", ""), int(found["port"]) if found["port"] else None, python
        )

    def command(self, *arguments: str) -> list[str]:
        """Return the local command that runs the remote interpreter with arguments."""
        ssh = shlex.split(os.environ.get("TRIMTAB_SSH") or "ssh")
        port = ["-p", str(self.port)] if self.port else []
        return [*ssh, *OPTIONS, *port, "--", self.host, "exec " + shlex.join([self.python, "-P", *arguments])]

    def tell(self) -> dict[str, Any]:
        """Return what `python -m trimtab.machines` says there: versions, and the machine's facts.

        Raises:
            SessionError: the host cannot be reached, or takes too long.
            UsageError: it has no such interpreter, or no trimtab.
        """
        try:
            done = subprocess.run(
                self.command("-m", "trimtab.machines"),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PROBE_S,
                check=False,
            )
        except FileNotFoundError as error:
            raise UsageError(f"there is no {error.filename} here, which ssh: machines are reached by") from error
        except subprocess.TimeoutExpired as error:
            raise SessionError(f"{self.host} gave no answer in {PROBE_S:g} s") from error
        if done.returncode:
            raise self._refusal(done.returncode, _last(done.stderr))
        try:
            told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
            return told
        except (ValueError, IndexError) as error:
            raise SessionError(f"{self.host} answered {done.stdout[:80]!r}, not the facts of a machine") from error

    def _refusal(self, status: int, words: str) -> Exception:
        if status == LOST:
            return SessionError(
                f"cannot reach {self.host}: {words}; try `ssh {self.host} true`, which must ask nothing"
            )
        if status in NO_COMMAND:
            return UsageError(
                f"{self.host} cannot run {self.python} ({words}); say which interpreter has trimtab: "
                f"ssh:{self.host}?python=/path/to/python, or TRIMTAB_REMOTE_PYTHON"
            )
        if "No module named" in words or "unknown option" in words.lower():
            return UsageError(
                f"{self.python} on {self.host} cannot run trimtab ({words}); install it there, "
                f"or name another interpreter: ssh:{self.host}?python=/path/to/python"
            )
        return SessionError(f"trimtab fails on {self.host}: {words or f'exit status {status}'}")


def _last(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].strip()
