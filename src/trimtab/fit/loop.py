"""The training engine: one loop for training, fine-tuning and distilling, deterministic and resumable to the bit.

Everything random is a function of (seed, epoch, step) or part of the checkpoint: the order of an epoch comes from a
generator of its own, the augmentation of a batch from its step. So a run that was killed and goes on ends with the
same weights as one that was not, on the same machine with the same number of threads.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.errors import DataError, Refused
from trimtab.fit import checkpoint, tensors
from trimtab.fit.checkpoint import Progress
from trimtab.fit.effort import threads_worth
from trimtab.fit.features import Features
from trimtab.fit.kernels import sound_kernels
from trimtab.fit.losses import hard, soft
from trimtab.fit.optimizer import optimizer, settled
from trimtab.fit.order import Order, mix
from trimtab.fit.program import Net
from trimtab.fit.settings import Report, Settings, Surroundings, rate
from trimtab.fit.teacher import TOGETHER, Teacher, valid
from trimtab.run.lengths import check_lengths
from trimtab.values.model import Single
from trimtab.values.task import Batch, Metric, Split, TaskView

EVALUATION_BATCH, LONG_BATCH = 256, 32
"""Examples answered together, and of those whose first axis is a sequence."""
CHECKPOINT_SECONDS = 3.0
"""Training that a kill may cost, but for models whose checkpoint takes longer to write than a share of that."""
CHECKPOINT_SHARE = 0.03
FEW_STEPS, FEW_SECONDS = 4, 4.0
"""Steps by which a step's time is told beforehand, or those that so many seconds allow."""
TIMED_STEPS, AT_LEAST = 12, 0.75
"""Steps after which the time of the others is known, and the share of it that is sure: a teacher's answers come again.
"""


def fit(
    module: nn.Module,
    view: TaskView,
    settings: Settings,
    around: Surroundings | None = None,
    teacher: nn.Module | None = None,
) -> Report:
    """Train `module`, a `Net` or one torch module, in place on the view's train split; it is left in eval mode.

    Raises:
        DataError: an empty split, an objective without a loss, or inputs longer than the model takes.
        Refused: the loss became infinite or not a number.
        TimeoutError: past the deadline; the checkpoint in `around.keep` takes the same call to the same end.
    """
    around = around or Surroundings()
    with checkpoint.seeded(around.seed, _threads(teacher or module, settings, around)), sound_kernels(module):
        settings = settled(settings, module, recovering=teacher is not None)
        net = Net.of(module)
        try:
            return _Training(net, view, settings, around, teacher).run()
        except IndexError:
            check_lengths(net.eval().answer, view, truncates=True)
            raise


def step_time(module: nn.Module, view: TaskView, settings: Settings, around: Surroundings) -> float:
    """Return the seconds of a step of training, the least of a few; the module is changed by them.

    Raises:
        DataError, Refused: as `fit`.
    """
    with checkpoint.seeded(around.seed, _threads(module, settings, around)), sound_kernels(module):
        training, times = _Training(Net.of(module), view, settled(settings, module), around, None), list[float]()
        _lay_out(training.net, torch.channels_last)
        while len(times) < FEW_STEPS and sum(times) < FEW_SECONDS:
            begun = time.monotonic()
            training._step(len(times))
            times.append(time.monotonic() - begun)
    return min(times)


def evaluate(module: nn.Module, view: TaskView, split: Split, metric: Metric) -> float:
    """Return the metric of `module`, a `Net` or one torch module, on a split the view allows."""
    net = Net.of(module).eval()
    examples = view.split(split)
    if not len(examples):
        raise DataError(f"the {split} split of {view.task.name} is empty")
    long = any(array.ndim in (1, 2) for array in examples[0].inputs.values())
    rows = [
        view.task.score(net.answer(batch), batch)
        for batch in view.batches(split, LONG_BATCH if long else EVALUATION_BATCH)
    ]
    together = np.concatenate(rows)
    return float(metric.reduce(together, np.ones((1, len(together))))[0])


def _threads(larger: nn.Module, settings: Settings, around: Surroundings) -> int:
    """Return the threads that pay: all, or one where layers are too small to be shared out."""
    model = larger.model if isinstance(larger, Net) else None
    return threads_worth(model.facts, settings.batch, around.threads) if model else around.threads


class _Training:
    """One run of the loop."""

    def __init__(
        self, net: Net, view: TaskView, settings: Settings, around: Surroundings, teacher: nn.Module | None
    ) -> None:
        self.net, self.view, self.settings, self.around = net, view, settings, around
        self.examples = view.split("train")
        if not len(self.examples):
            raise DataError(f"the train split of {view.task.name} is empty")
        self.order = Order(self.examples, settings.batch, around.seed)
        self.total = settings.steps or settings.epochs * self.order.batches
        self.metric = next((metric for metric in view.task.metrics if not metric.paired), None)
        if settings.patience is not None and self.metric is None:
            raise DataError(
                f"patience watches a metric of the model alone, and {view.task.name} has none: leave it out"
            )
        self.notes: list[str] = []
        self.teacher = self._teacher(teacher) if teacher is not None else None
        self.alpha = self._alpha()
        self.features = self._features()
        self.hard = (
            hard(view.task.objective, view.task.class_weights, settings.label_smoothing) if self.alpha < 1 else None
        )
        self.soft = soft(view.task.objective, settings.temperature)
        self.whole = nn.ModuleList([net, *([self.features] if self.features else [])])
        self.optimizer = optimizer(self.whole, settings)
        self.net.train()

    def run(self) -> Report:
        """Train to the end, from the checkpoint where there is one."""
        key = self._key()
        progress = Progress()
        if self.around.keep:
            progress, note = checkpoint.read(self.around.keep, key, self.whole, self.optimizer)
            self.notes += [note] if note else []
        try:
            self._prepare()
            # Convolutions train about a third faster on CPUs with channels last.
            _lay_out(self.net, torch.channels_last, self.optimizer)
            self._epochs(progress, key)
        finally:
            _lay_out(self.net, torch.contiguous_format)
            self.net.eval()
            if self.features:
                self.features.close()
        if progress.best_state:
            self.whole.load_state_dict(progress.best_state, strict=False)
        if progress.step < self.total:
            self.notes.append(f"stopped early at step {progress.step} of {self.total}")
        return Report(progress.step, tuple(progress.history), tuple(self.notes))

    def _epochs(self, progress: Progress, key: str) -> None:
        written, pause = time.monotonic(), CHECKPOINT_SECONDS
        start, first = written, progress.step
        while progress.step < self.total and not self._given_up(progress):
            self._in_time(progress, key, self._needed(progress, first, time.monotonic() - start))
            loss = self._step(progress.step)
            progress.step, progress.loss_sum = progress.step + 1, progress.loss_sum + loss
            ended = progress.step % self.order.batches == 0 or progress.step == self.total
            if ended:
                self._epoch_end(progress)
            if self.around.keep and (ended or time.monotonic() - written > pause):
                begun = time.monotonic()
                self._write(progress, key)
                written = time.monotonic()
                pause = max(CHECKPOINT_SECONDS, (written - begun) / CHECKPOINT_SHARE)
            self._tell(progress, loss)

    def _step(self, step: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.peak * rate(self.settings, step, self.total)
        loss = self._loss(step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Refused(
                f"the loss became {value} at step {step + 1} of {self.total}; lower lr (now {self.settings.lr}), "
                f"raise warmup, or set clip=1.0"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.clip)
        self.optimizer.step()
        return value

    def _loss(self, step: int) -> Tensor:
        if self.teacher is not None and self.teacher.period:
            step %= self.teacher.period
            batch = self.teacher.batch(step, self._batch)
        else:
            batch = self._batch(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.precision == "bf16"):
            outputs = self.net.scores(batch)
        outputs, loss = outputs.float(), torch.zeros(())
        if self.hard is not None:
            if batch.targets is None:
                raise DataError(f"{self.view.task.name} has no targets to train on")
            loss = loss + (1 - self.alpha) * self.hard(outputs, torch.from_numpy(np.asarray(batch.targets)))
        if self.teacher is not None and (self.alpha > 0 or self.features):  # asking shows its features too
            answers = self.teacher.answer(batch, self.order.chosen(step), step, self._batch)
            if self.alpha > 0:
                loss = loss + self.alpha * self.soft(outputs, answers, valid(batch, answers))
        return loss + self.settings.features * self.features.loss(batch) if self.features else loss

    def _teacher(self, module: nn.Module) -> Teacher:
        together = replace(self.settings, batch=TOGETHER * self.settings.batch)
        return Teacher(module, self.view, self.settings.precision, _threads(module, together, self.around))

    def _batch(self, step: int) -> Batch:
        plain = self.view.task.collate([self.examples[i] for i in self.order.chosen(step)])
        return self.view.task.augment(plain, mix(self.around.seed, step))

    def _alpha(self) -> float:
        if self.teacher is None:
            return 0.0
        if self.view.task.objective != "none":
            return self.settings.alpha
        self.notes.append("the task has no targets: the teacher alone is followed (alpha=1)")
        return 1.0

    def _features(self) -> Features | None:
        if self.teacher is None or not self.settings.features:
            return None
        models = (self.net.model, self.teacher.net.model)
        if any(model is not None and not isinstance(model.program, Single) for model in models):
            self.notes.append("features are matched in nets of one call only, so not here")
            return None
        few = self.view.task.collate([self.examples[i % len(self.examples)] for i in range(2)])
        features = Features(self.net, self.teacher.net, few)
        if not features.pairs:
            features.close()
            self.notes.append("no block repeats in these nets: no features to match")
            return None
        self.notes.append(f"features of {features.pairs} blocks matched")
        return features

    def _prepare(self) -> None:
        """Say how much padding there is; ask the teacher beforehand where that saves asking."""
        now, before = self.order.padding()
        if before:
            self.notes.append(f"batches of like lengths: {now:.0%} of their steps are padding, {before:.0%} unsorted")
        if self.teacher is None or self.features or not self.alpha:
            return
        self.teacher.prepare(self.order, self.total, lambda: self.around.check_time(0.0))
        self.notes += [self.teacher.note] if self.teacher.note else []

    def _epoch_end(self, progress: Progress) -> None:
        taken = (progress.step - 1) % self.order.batches + 1
        entry = {"epoch": progress.step / self.order.batches, "loss": progress.loss_sum / taken}
        progress.loss_sum = 0.0
        progress.history.append(entry)
        if self.metric is None or (self.teacher is not None and self.settings.patience is None):
            return  # what is recovered is measured afterwards, on every example
        value = evaluate(self.net, self.view, "validation", self.metric)
        self.net.train()
        entry[self.metric.name] = value
        if self.settings.patience is None:
            return
        higher = self.metric.better == "higher"
        better = progress.best is None or (value > progress.best if higher else value < progress.best)
        if better and math.isfinite(value):
            progress.best, progress.waited, progress.best_state = value, 0, checkpoint.copy_state(self.whole)
        else:
            progress.waited += 1

    def _given_up(self, progress: Progress) -> bool:
        return self.settings.patience is not None and progress.waited >= self.settings.patience

    def _needed(self, progress: Progress, first: int, seconds: float) -> float:
        """Return the seconds that a recovery still needs, at least; 0 where that is not known yet.

        A training without a teacher goes on as long as it may: the same command takes it up again.
        """
        done = progress.step - first
        if self.teacher is None or done < TIMED_STEPS:
            return 0.0
        return AT_LEAST * seconds / done * (self.total - progress.step)

    def _in_time(self, progress: Progress, key: str, needed_s: float) -> None:
        try:
            self.around.check_time(needed_s)
        except TimeoutError:
            self._write(progress, key)
            raise

    def _write(self, progress: Progress, key: str) -> None:
        if self.around.keep:
            checkpoint.write(self.around.keep, key, self.whole, self.optimizer, progress)

    def _tell(self, progress: Progress, loss: float) -> None:
        epoch = math.ceil(progress.step / self.order.batches)
        self.around.progress(f"epoch {epoch}, loss {loss:.3f}", progress.step / self.total)

    def _key(self) -> str:
        """Return what a checkpoint must agree with: settings, seed, data and the weights at the start."""
        start = tensors.digest(checkpoint.copy_state(self.whole))
        said = f"{asdict(self.settings)} {self.around.seed} {self.view.task.name} {len(self.examples)} {start}"
        return hashlib.sha256(said.encode()).hexdigest()


def _lay_out(module: nn.Module, layout: torch.memory_format, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Lay out the weights, and what the optimizer keeps of each as the weight itself lies, which fused kernels need."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    for weight, state in optimizer.state.items() if optimizer else ():
        for name, value in state.items():
            if value.shape == weight.shape:
                state[name] = torch.empty_like(weight).copy_(value)
