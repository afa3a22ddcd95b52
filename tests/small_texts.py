"""A tokenizer of a few words, made-up reviews and sentences, and a tiny encoder's folder: what tests of texts share."""

import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.values.task import Batch, Example, Task

WORDS = ("good", "bad", "film", "book", "the", "a", "is", "was", "very", "not", "superb", "dull")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def tokenizer_text(words=WORDS, special=SPECIAL) -> str:
    """Return a tokenizer.json that splits at spaces; it also says a truncation and a padding, which nobody wants."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate((*special, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[1]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(name, vocabulary[name]) for name in special[2:4]]
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(f"{ends[0][0]} $A {ends[1][0]}", special_tokens=ends)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    return tokenizer.to_str()


def write_reviews(path: Path, count: int = 120, delimiter: str = ",") -> Path:
    """Write reviews of 3 to 9 words; the label is told by one of them."""
    chance = random.Random(0)
    with path.open("w", newline="") as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerow(["review", "label", "author", "part"])
        for number in range(count):
            good = number % 2 == 0
            words = chance.choices(["the", "film", "book", "is", "very"], k=chance.randint(2, 8))
            words.insert(chance.randrange(len(words)), chance.choice(["good", "superb"] if good else ["bad", "dull"]))
            part = ("train", "validation", "test")[number // 2 % 3]
            table.writerow([f"{' '.join(words)} n{number}", "yes" if good else "no", f"u{number // 4}", part])
    return path


def write_encoder(folder: Path, **config) -> Path:
    """Write an untrained BERT with its tokenizer, as transformers lays out a folder."""
    import torch
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    places = {"vocab_size": len(WORDS) + len(SPECIAL), "max_position_embeddings": 12}
    torch.manual_seed(0)
    BertModel(BertConfig(**sizes, **places | config)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_text())
    return folder


def edit_config(folder: Path, **changes) -> Path:
    """Change settings of a folder's config.json; None takes one out."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return folder


@dataclass(frozen=True)
class Sentences(Task):
    """Sentences of so many tokens in each split, all of them the number of the split; the answer is 1."""

    lengths: tuple[tuple[int, ...], ...] = ((3, 5), (4,), (9,))
    padding: int = 0
    max_length: int = 100
    name = "sentences"
    objective = "mse"
    metrics = ()

    def split(self, name):
        number = ["train", "validation", "test"].index(name)
        return [
            Example(f"{name}{i}", {"ids": np.full(n, number), "mask": np.ones(n)})
            for i, n in enumerate(self.lengths[number])
        ]

    def collate(self, examples):
        width = max([self.padding, *(len(example.inputs["ids"]) for example in examples)])
        ids = [np.pad(example.inputs["ids"], (0, width - len(example.inputs["ids"]))) for example in examples]
        mask = [np.arange(width) < len(example.inputs["ids"]) for example in examples]
        inputs = {"ids": np.stack(ids), "mask": np.stack(mask).astype(float)}
        return Batch(inputs, np.ones(len(ids), np.float32))

    def score(self, outputs, batch):
        return np.zeros((len(batch), 1))
