"""Your own Hugging Face folder on a CSV of texts, in a minute or two; the folder here is a tiny one, made on the spot.

The same on the command line, for a model and texts of your own:

    trimtab trim "hf:FOLDER | train(epochs=3, lr=0.0001)" "text:reviews.csv(target='label', tokenizer='FOLDER')" \
        --promise "accuracy >= base - 0.01" --within 30m
"""

import csv
import random
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel

import trimtab

GOOD = ("a joy", "warm and funny", "a clever delight", "simply superb", "moving", "a small wonder")
BAD = ("a bore", "cold and dull", "a clumsy mess", "simply awful", "tedious", "a waste of time")
TOPICS = ("the film", "this book", "her new song", "the second act", "his cooking", "that long evening by the sea")


def reviews(path: Path, count: int = 1200) -> list[str]:
    """Write a CSV of made-up reviews; one in twenty says the opposite of what its author thinks."""
    chance = random.Random(0)  # noqa: S311  (no secret)
    rows = []
    for _ in range(count):
        good = chance.random() < 0.5
        words = GOOD if good != (chance.random() < 0.05) else BAD
        rows.append(
            (f"{chance.choice(TOPICS)} is {chance.choice(words)} and {chance.choice(words)}", "good" if good else "bad")
        )
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("review", "label"), *rows])
    return [text for text, _ in rows]


def folder(path: Path, texts: list[str]) -> Path:
    """Write an untrained encoder with its tokenizer, as `save_pretrained` lays them out: config.json, safetensors."""
    tokenizer = BertWordPieceTokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=300, show_progress=False)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=48,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def main(work: Path) -> None:
    """Fine-tune, trim, and serve the bundle: it takes plain texts."""
    work.mkdir(parents=True, exist_ok=True)
    encoder = folder(work / "encoder", reviews(work / "reviews.csv"))
    task = f"text:{work / 'reviews.csv'}(target='label', text='review', tokenizer='{encoder}', max_length=32)"
    base = f"hf:{encoder} | train(steps=100, lr=0.002)"
    result = trimtab.trim(base, task, "accuracy >= base - 0.05", within="2m", train=False, out=work / "run")
    print(result.document["sentence"])
    if result.bundle is None:
        sys.exit(3)
    with trimtab.load(result.bundle) as bundle:
        answer = bundle.predict(["this book is moving and a joy", "the film is a clumsy mess"])
    print(*answer["label"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
