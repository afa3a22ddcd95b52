"""The training engine: one loop for training, fine-tuning and distilling, deterministic and resumable to the bit.

Everything random is a function of (seed, epoch, step) or part of the checkpoint: the order of an epoch comes from a
generator of its own, the augmentation of a batch from its step. So a run that was killed and goes on ends with the
same weights as one that was not, on the same machine with the same number of threads.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.errors import DataError, Refused
from trimtab.fit import checkpoint, tensors
from trimtab.fit.checkpoint import Progress
from trimtab.fit.losses import Loss, hard, soft
from trimtab.fit.module import named
from trimtab.fit.settings import Report, Settings, Surroundings, rate
from trimtab.values.task import Batch, Metric, Split, TaskView

EVALUATION_BATCH = 256
CHECKPOINT_SECONDS = 3.0
"""Training that a kill may cost, but for models whose checkpoint takes longer to write than a share of that."""
CHECKPOINT_SHARE = 0.03


def fit(
    module: nn.Module,
    view: TaskView,
    settings: Settings,
    around: Surroundings | None = None,
    teacher: nn.Module | None = None,
) -> Report:
    """Train `module` in place on the view's train split; it is left in eval mode.

    Raises:
        DataError: an empty split, or an objective without a loss.
        Refused: the loss became infinite or not a number.
        TimeoutError: past the deadline; the checkpoint in `around.keep` takes the same call to the same end.
    """
    around = around or Surroundings()
    with checkpoint.seeded(around.seed, around.threads):
        return _Training(module, view, settings, around, teacher).run()


def evaluate(module: nn.Module, view: TaskView, split: Split, metric: Metric) -> float:
    """Return the metric of `module` on a split the view allows."""
    module.eval()
    rows = []
    with torch.no_grad():
        for batch in view.batches(split, EVALUATION_BATCH):
            outputs = named(module(*_inputs(batch)))
            rows.append(view.task.score({name: value.numpy() for name, value in outputs.items()}, batch))
    if not rows:
        raise DataError(f"the {split} split of {view.task.name} is empty")
    together = np.concatenate(rows)
    return float(metric.reduce(together, np.ones((1, len(together))))[0])


class _Training:
    """One run of the loop."""

    def __init__(
        self, module: nn.Module, view: TaskView, settings: Settings, around: Surroundings, teacher: nn.Module | None
    ) -> None:
        self.module, self.view, self.settings, self.around, self.teacher = module, view, settings, around, teacher
        self.examples = view.split("train")
        if not len(self.examples):
            raise DataError(f"the train split of {view.task.name} is empty")
        self.per_epoch = math.ceil(len(self.examples) / settings.batch)
        self.total = settings.steps or settings.epochs * self.per_epoch
        self.metric = next((metric for metric in view.task.metrics if not metric.paired), None)
        self.hard: Loss = hard(view.task.objective, view.task.class_weights, settings.label_smoothing)
        self.soft: Loss = soft(view.task.objective, settings.temperature)
        self.optimizer = _optimizer(module, settings)

    def run(self) -> Report:
        """Train to the end, from the checkpoint where there is one."""
        key, notes = self._key(), []
        progress = Progress()
        if self.around.keep:
            progress, note = checkpoint.read(self.around.keep, key, self.module, self.optimizer)
            notes += [note] if note else []
        # Convolutions train about a third faster on CPUs with channels last.
        _lay_out(self.module, torch.channels_last)
        try:
            self._epochs(progress, key)
        finally:
            _lay_out(self.module, torch.contiguous_format)
            self.module.eval()
        if progress.best_state:
            self.module.load_state_dict(progress.best_state, strict=False)
        if progress.step < self.total:
            notes.append(f"stopped early at step {progress.step} of {self.total}")
        return Report(progress.step, tuple(progress.history), tuple(notes))

    def _epochs(self, progress: Progress, key: str) -> None:
        written, pause = time.monotonic(), CHECKPOINT_SECONDS
        while progress.step < self.total and not self._given_up(progress):
            self._in_time(progress, key)
            loss = self._step(progress.step)
            progress.step, progress.loss_sum = progress.step + 1, progress.loss_sum + loss
            ended = progress.step % self.per_epoch == 0 or progress.step == self.total
            if ended:
                self._epoch_end(progress)
            if self.around.keep and (ended or time.monotonic() - written > pause):
                begun = time.monotonic()
                self._write(progress, key)
                written = time.monotonic()
                pause = max(CHECKPOINT_SECONDS, (written - begun) / CHECKPOINT_SHARE)
            self._tell(progress, loss)

    def _step(self, step: int) -> float:
        self.module.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * rate(self.settings, step, self.total)
        batch = self._batch(step)
        loss = self._loss(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Refused(
                f"the loss became {value} at step {step + 1} of {self.total}; lower lr (now {self.settings.lr}), "
                f"raise warmup, or set clip=1.0"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip)
        self.optimizer.step()
        return value

    def _batch(self, step: int) -> Batch:
        epoch, index = divmod(step, self.per_epoch)
        order = torch.randperm(len(self.examples), generator=_generator(self.around.seed, epoch))
        chosen = order.tensor_split(self.per_epoch)[index].tolist()
        batch = self.view.task.collate([self.examples[i] for i in chosen])
        return self.view.task.augment(batch, _mix(self.around.seed, step))

    def _loss(self, batch: Batch) -> Tensor:
        inputs = _inputs(batch)
        outputs = next(iter(named(self.module(*inputs)).values()))
        alpha = self.settings.alpha if self.teacher is not None else 0.0
        loss = torch.zeros(())
        if alpha < 1:
            if batch.targets is None:
                raise DataError(f"{self.view.task.name} has no targets to train on")
            loss = loss + (1 - alpha) * self.hard(outputs, torch.from_numpy(np.asarray(batch.targets)))
        if self.teacher is not None and alpha > 0:
            with torch.no_grad():
                answer = next(iter(named(self.teacher.eval()(*inputs)).values()))
            loss = loss + alpha * self.soft(outputs, answer)
        return loss

    def _epoch_end(self, progress: Progress) -> None:
        taken = (progress.step - 1) % self.per_epoch + 1
        entry = {"epoch": progress.step / self.per_epoch, "loss": progress.loss_sum / taken}
        progress.loss_sum = 0.0
        progress.history.append(entry)
        if self.metric is None:
            return
        value = evaluate(self.module, self.view, "validation", self.metric)
        entry[self.metric.name] = value
        if self.settings.patience is None:
            return
        higher = self.metric.better == "higher"
        if progress.best is None or (value > progress.best if higher else value < progress.best):
            progress.best, progress.waited, progress.best_state = value, 0, checkpoint.copy_state(self.module)
        else:
            progress.waited += 1

    def _given_up(self, progress: Progress) -> bool:
        return self.settings.patience is not None and progress.waited >= self.settings.patience

    def _in_time(self, progress: Progress, key: str) -> None:
        try:
            self.around.check_time()
        except TimeoutError:
            self._write(progress, key)
            raise

    def _write(self, progress: Progress, key: str) -> None:
        if self.around.keep:
            checkpoint.write(self.around.keep, key, self.module, self.optimizer, progress)

    def _tell(self, progress: Progress, loss: float) -> None:
        epoch = math.ceil(progress.step / self.per_epoch)
        self.around.progress(f"epoch {epoch}, loss {loss:.3f}", progress.step / self.total)

    def _key(self) -> str:
        """Return what a checkpoint must agree with: settings, seed, data and the weights at the start."""
        start = tensors.digest(checkpoint.copy_state(self.module))
        said = f"{asdict(self.settings)} {self.around.seed} {self.view.task.name} {len(self.examples)} {start}"
        return hashlib.sha256(said.encode()).hexdigest()


def _optimizer(module: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise Refused("the model has no weights to train")
    # Biases and norms are not decayed: it would pull them to zero without making the net any smoother.
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)


def _lay_out(module: nn.Module, layout: torch.memory_format) -> None:
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def _inputs(batch: Batch) -> tuple[Tensor, ...]:
    tensors_in = (torch.from_numpy(array.copy()) for array in batch.inputs.values())
    return tuple(t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors_in)


def _mix(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:6])


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(_mix(seed, epoch, -1))
