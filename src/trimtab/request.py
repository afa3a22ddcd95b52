"""What the user asked for, as data: the run folder remembers it, and the command that repeats it is made of it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from trimtab.errors import UsageError


@dataclass(frozen=True)
class Request:
    """What the user asked for; the run folder remembers it, and goes on only with the same one."""

    model: str
    task: str
    promises: tuple[str, ...]
    objective: str = "latency"
    limits: tuple[str, ...] = ()
    on: str = "here"
    within_s: float = 600.0
    tries: tuple[str, ...] = ()
    train: bool = True
    seed: int = 0
    confidence: float = 0.95
    memory_limit_mb: float = 0.0
    trust: bool = False
    """Whether a model folder may run code that only it names."""
    workers: str = ""
    """Who makes models besides this process: a number of local workers, or ray://HOST:PORT; empty for nobody."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is a whole number from 0 to {2**32 - 1}, got {self.seed}")
        if not 0 <= self.memory_limit_mb < float("inf"):
            raise UsageError(f"the memory limit is a number of MB, 0 for none; got {self.memory_limit_mb}")

    def command(self, out: str) -> str:
        """Return the command line that repeats the run."""
        words = ["trimtab", "trim", self.model, self.task]
        for flag, values in (("--promise", self.promises), ("--limit", self.limits), ("--try", self.tries)):
            for value in values:
                words += [flag, value]
        words += ["--for", self.objective, "--on", self.on, "--within", f"{self.within_s:g}s", "--out", out]
        words += ["--seed", str(self.seed), "--confidence", f"{self.confidence:g}"]
        words += ["--memory", f"{self.memory_limit_mb:g}"] if self.memory_limit_mb else []
        words += ["--workers", self.workers] if self.workers else []
        flags = [*([] if self.train else ["--no-train"]), *(["--trust"] if self.trust else [])]
        return shlex.join([*words, *flags])
