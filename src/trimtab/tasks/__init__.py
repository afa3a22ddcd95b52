"""Tasks: what a model must do. A built-in (`mnist5k`), the user's data (`reviews.csv`), or the user's own `Task`.

One file is one task: a frozen dataclass whose fields are the arguments of its reference, `digits(seed=1)`.
"""

from __future__ import annotations

from trimtab.values.task import Task

CONTRACT = Task
