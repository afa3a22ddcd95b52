"""Is somebody speaking? Recorded prompts of one voice, without labels: what counts is agreement with the base.

568 clips of 8 kHz (CC BY-SA 3.0) are brought to 16 kHz and laid into a little noise, so that there is something to
decide. The inputs are frames of 512 new samples (32 ms), each led by the last 64 of the frame before, as the detector
silero-vad takes them. Frames of a clip are not independent: an example, and so the unit of resampling, is a clip.
"""

from __future__ import annotations

import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import CorruptFile, DataError
from trimtab.maths.agreement import StepAgreement, StepGap, step_rows
from trimtab.packages import Parcel, fetch_many, names
from trimtab.tasks._data import Array, Data
from trimtab.tasks._labelled import Labelled
from trimtab.tasks._splits import keys
from trimtab.values.task import Batch, Metric

PARCEL = Parcel(
    "debian",
    "asterisk-core-sounds-en-wav",
    "1.6.1-1",
    "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
    "usr/share/asterisk/sounds/en_US_f_Allison/hello-world.wav",
)
RATE, SIZE, CONTEXT = 16_000, 512, 64
"""Samples a second, new samples of a frame, and samples of the frame before."""


@dataclass(frozen=True, kw_only=True)
class Speech(Labelled):
    """Decide for each frame of 32 ms whether there is speech: `sequence` is float32 [steps, 576], beside `length`."""

    seconds: float = 2.0
    """Of a clip that are kept, from its beginning."""
    silence: float = 0.3
    """Seconds of noise alone before and behind each clip."""
    noise: float = 0.005
    """Standard deviation of the noise; full scale is 1."""
    clips: int = 0
    """How many clips are used; 0 means all."""
    shares: tuple[float, ...] = (0.15, 0.15, 0.7)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Agreement of decisions at a probability of 0.5, and the mean distance of the probabilities."""
        return (StepAgreement(), StepGap())

    @property
    def steps(self) -> int:
        """The most frames that an example can have."""
        return -(-round((self.seconds + 2 * self.silence) * RATE) // SIZE)

    def read(self) -> Data:
        """Read the clips; downloads 18 MB on first use."""
        if min(self.seconds, self.silence, self.noise) < 0 or self.seconds == 0 or self.clips < 0:
            raise DataError("speech takes seconds above 0, and silence, noise and clips of at least 0")
        paths = clip_paths()[: self.clips or None]
        ids = np.array([f"{path.parent.name}/{path.stem}" for path in paths])
        signals = np.empty(len(paths), dtype=object)
        for number, path in enumerate(paths):
            signals[number] = self._laid(read_wave(path, self.seconds), ids[number])
        step = {"op": "frames", "input": "signal", "size": SIZE, "context": CONTEXT}
        steps = ({**step, "output": "sequence", "length": "length"},)
        return Data({"signal": signals}, ids, clusters=ids, fit=lambda train: steps)

    def score(self, outputs: Mapping[str, Array], batch: Batch) -> NDArray[np.float64]:
        """Return a row of probabilities a clip; raises DataError where the model gives other than one a frame."""
        answers = outputs["output"] if "output" in outputs else next(iter(outputs.values()))
        try:
            return step_rows(answers, batch.inputs["length"], self.steps)
        except ValueError as error:
            raise DataError(f"the model does not fit the task {self.name}: {error}") from error

    def _laid(self, signal: Array, name: str) -> Array:
        """Cut a clip and lay it into noise that depends on the clip's name and the seed alone."""
        quiet = np.zeros(round(self.silence * RATE))
        whole = np.concatenate([quiet, signal, quiet])
        chance = np.random.default_rng(keys(self.seed, [name])[0])
        return np.asarray(whole + self.noise * chance.normal(size=len(whole)), dtype=np.float32)


def clip_paths() -> list[Path]:
    """Return the clips, unpacked, in an order that tells nothing about them."""
    inside = [name for name in names(PARCEL) if name.endswith(".wav")]
    order = np.argsort(keys(0, inside), kind="stable")
    return list(fetch_many(PARCEL, [inside[index] for index in order]))


def read_wave(path: Path, seconds: float) -> NDArray[np.float64]:
    """Return the first seconds of a 16-bit wave file of one channel, float64[n] in -1..1, at 16 kHz.

    Raises:
        CorruptFile: the file is no such wave file.
    """
    try:
        with wave.open(str(path)) as file:
            if (file.getnchannels(), file.getsampwidth()) != (1, 2):
                raise ValueError("not one channel of 16 bits")
            rate = file.getframerate()
            samples = np.frombuffer(file.readframes(round(seconds * rate)), dtype="<i2") / 32_768
    except (OSError, EOFError, ValueError, wave.Error) as error:
        raise CorruptFile(f"{path} cannot be read, delete it and it comes anew: {error}") from error
    return resampled(samples, round(len(samples) * RATE / rate))


def resampled(samples: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the same signal in `count` samples: its Fourier series, cut off or filled up with zeros."""
    if not len(samples) or count == len(samples):
        return samples
    return np.asarray(np.fft.irfft(np.fft.rfft(samples), count) * (count / len(samples)))
