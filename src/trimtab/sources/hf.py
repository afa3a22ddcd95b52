"""Opens a model of the transformers library: `hf:FOLDER`, `hf:minilm-l6`, or an id where the Hugging Face hub answers.

A folder holds config.json and safetensors (or a pytorch_model.bin of tensors only). What becomes of it is data: the
configuration is an argument of one of three builders, the weights are safetensors. No code of the folder runs: a model
whose code lies beside its weights (`auto_map`) is refused.

    encoder      no head that fits the task: the mean of the last states over the text, then a fresh linear layer
    classifier   the folder's own head for whole texts, its classes put into the task's order
    image        a model of AutoModelForImageClassification; a head that does not fit is made afresh
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from trimtab.errors import CorruptFile, DataError, RecipeError, UnsafeFile, one_line
from trimtab.fit import code
from trimtab.fit import module as artefact
from trimtab.packages import minilm
from trimtab.run.frontend import steps_of
from trimtab.sources import Source, _hf_nets, _hf_weights
from trimtab.sources._hf_weights import fill, weight_files
from trimtab.values.model import Model
from trimtab.values.notation import Step
from trimtab.values.task import Split, TaskView
from trimtab.values.trust import HF

BUILDERS = _hf_nets.BUILDERS
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WANTED = (CONFIG, "model*.safetensors", "model.safetensors.index.json", TOKENIZER)
"""What is taken from the hub."""
DROPPED = frozenset({"_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype", "use_cache"})
DROPPED |= {"id2label", "label2id", "_attn_implementation_autoset", "problem_type"}
"""Of a configuration: what says where the model came from, not what it is."""
CODE = tuple(map(Path, (__file__, _hf_nets.__file__, _hf_weights.__file__)))
"""What a model depends on besides its folder."""
NAMELESS = re.compile(r"LABEL_\d+|\d+")
TOKENS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Choices:
    """What a reference may say besides the place: `hf:FOLDER(seed=1, pooling='first')`."""

    seed: int = 0
    """Of a fresh head."""
    pooling: str = "mean"
    """What a fresh head for texts reads: the `mean` of the text's states, or the `first` one."""
    head: str = ""
    """`fresh`, or `keep`: the folder's own head even if its classes have other names, in its own order."""

    def __post_init__(self) -> None:
        for name, known in (("pooling", ("mean", "first")), ("head", ("", "fresh", "keep"))):
            if getattr(self, name) not in known:
                raise RecipeError(f"hf: {name} takes {' or '.join(map(repr, known))}, got {getattr(self, name)!r}")


class Hf(Source):
    """Opens `hf:FOLDER_OR_ID`: a text or image model with a head for the task's classes."""

    def open(self, ref: str, scratch: Path, task: TaskView) -> Model:
        """Return the model as data; its notes say which head it has, and why."""
        place, choices = _parse(ref)
        folder = _folder(place)
        config = _config(folder)
        build, note = _description(config, task, choices)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(choices.seed)
            module = code.build(build)
            fresh = fill(module, folder, not note.startswith("fresh"))
        _check_lengths(module, task)
        _check_tokens(module, folder, task)
        signature = artefact.signature(module, task)
        part = artefact.save(module, scratch / "main", signature, build, (), artefact.example(task))
        notes = {"hf": {"builder": build["ref"].rpartition(":")[2], "head": note, "fresh": fresh}}
        return Model({"main": part}, frontend=task.task.frontend(), lineage=(f"hf:{ref}",), notes=notes)

    def fingerprint(self, ref: str) -> str:
        """Return a hash of the choices, the configuration, the weights and the code here; not of where they lie."""
        place, choices = _parse(ref)
        folder = _folder(place)
        files = [folder / CONFIG, *weight_files(folder), *CODE]
        return hashlib.sha256(repr([asdict(choices), *map(code.file_hash, files)]).encode()).hexdigest()


def _parse(ref: str) -> tuple[str, Choices]:
    """Split `FOLDER(seed=1)`; a folder's own name may have brackets too."""
    brackets = [] if Path(ref).is_dir() or not ref.endswith(")") else [m.start() for m in re.finditer(r"\(", ref)]
    end = next((at for at in brackets if Path(ref[:at]).is_dir() and at), brackets[0] if brackets else len(ref))
    place, arguments = ref[:end], ref[end:]
    if not place.strip():
        raise DataError("hf: needs a folder or an id, as hf:minilm-l6 or hf:path/to/folder")
    return place.strip(), Step.parse(f"hf{arguments}").build(Choices)


def _folder(place: str) -> Path:
    if Path(place).is_dir():
        return Path(place).resolve()
    if place == "minilm-l6":
        return minilm(CONFIG, "model.safetensors", TOKENIZER)[0].parent
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(place, allow_patterns=list(WANTED)))
    except Exception as error:  # what it raises depends on the library that it speaks to the network with
        raise DataError(
            f"there is no folder {place}, and the Hugging Face hub gives nothing of that name here "
            f"({one_line(error)}); download it where you can, `hf download {place} --local-dir FOLDER`, "
            "and say hf:FOLDER; hf:minilm-l6 needs no hub"
        ) from error


def _config(folder: Path) -> dict[str, Any]:
    """Return the folder's configuration, if the library itself has such a model and it needs no code of the folder."""
    path = folder / CONFIG
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{folder} is no transformers folder: {CONFIG} cannot be read ({error})") from error
    if not isinstance(config, dict) or config.get("model_type") not in transformers.CONFIG_MAPPING:
        kind = config.get("model_type") if isinstance(config, dict) else None
        raise DataError(f"{path}: transformers {transformers.__version__} has no model of the model_type {kind!r}")
    if "auto_map" in config:
        raise UnsafeFile(
            f"{folder} brings code of its own ({str(config['auto_map'])[:80]}), which is not run; "
            "if you know the code, give it as torch:FILE.py:callable"
        )
    if "quantization_config" in config:
        raise DataError(f"{folder} is quantized already; give the model that it was made of")
    return config


def _description(config: Mapping[str, Any], task: TaskView, choices: Choices) -> tuple[dict[str, Any], str]:
    """Return how to build the model for the task, and a sentence on its head."""
    inputs = tuple(artefact.example(task, 1).inputs)
    settings: dict[str, Any] = {"config": {key: value for key, value in config.items() if key not in DROPPED}}
    order, note = _own_head(config, task, choices)
    if inputs == ("image",):
        return _build("image", settings | {"order": order or list(range(_classes(task)))}), note
    if sorted(inputs) != sorted(TOKENS):
        raise DataError(
            f"hf: takes input_ids and attention_mask, or an image; {task.task.name} gives {', '.join(inputs)}; "
            "a table of texts is read by text:FILE(text='COLUMN', tokenizer='FOLDER')"
        )
    if config.get("is_encoder_decoder"):
        raise DataError(f"{config['model_type']} is an encoder with a decoder; hf: takes encoders alone")
    if order:
        return _build("classifier", settings | {"order": order}), note
    return _build("encoder", settings | {"classes": _classes(task), "pooling": choices.pooling}), note


def _build(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"ref": f"{HF}:{name}", "arguments": dict(arguments), "sha256": None}


def _classes(task: TaskView) -> int:
    """Return how many outputs the task wants; raises DataError where it has no targets that would tell."""
    targets = artefact.example(task, 1).targets
    if targets is None:
        raise DataError(f"{task.task.name} has no targets to fit a head to, and the folder's own head is not taken")
    return len(task.task.labels) or int(np.asarray(targets).size)


def _own_head(config: Mapping[str, Any], task: TaskView, choices: Choices) -> tuple[list[int], str]:
    """Return the folder's classes in the task's order, [] where its head does not fit, and a sentence."""
    heads = [name for name in config.get("architectures") or () if name.endswith("Classification")]
    if not heads or "Token" in heads[0]:
        return [], "fresh: the folder has no head for whole inputs"
    labels, own = list(task.task.labels), _own_labels(config)
    if choices.head == "fresh":
        return [], "fresh, as asked"
    unlabelled = artefact.example(task, 1).targets is None
    wanted = len(own) if unlabelled else _classes(task)
    if len(own) != wanted:
        if choices.head == "keep":
            raise DataError(f"head='keep' cannot be: the folder's head has {len(own)} outputs, the task {wanted}")
        return [], f"fresh: the folder's head has {len(own)} outputs, the task {wanted}"
    if choices.head == "keep" or not labels or all(map(NAMELESS.fullmatch, own)):
        return list(range(len(own))), "the folder's own, in its own order"
    known = [name.casefold() for name in own]
    if sorted(known) != sorted(label.casefold() for label in labels):
        return [], f"fresh: the folder's classes are {', '.join(own)}; head='keep' takes them in this order"
    return [known.index(label.casefold()) for label in labels], "the folder's own, by the names of its classes"


def _own_labels(config: Mapping[str, Any]) -> list[str]:
    named = config.get("id2label")
    if isinstance(named, Mapping) and sorted(named) == sorted(map(str, range(len(named)))):
        return [str(named[str(number)]) for number in range(len(named))]
    return [f"LABEL_{number}" for number in range(int(config.get("num_labels", 2)))]


def _check_lengths(module: nn.Module, task: TaskView) -> None:
    """Raise DataError where the task's texts may be longer, or its tokens more, than the model's tables."""
    if not isinstance(module, _hf_nets.Masked):
        return
    most, tokens = _longest(task)
    limit = _positions(module)
    if limit is not None and most > limit:
        raise DataError(
            f"texts of {task.task.name} have up to {most} tokens, this model takes at most {limit} (its "
            f"max_position_embeddings): say max_length={limit} in the task"
        )
    words = int(module.model.config.vocab_size)
    if tokens >= words:
        raise DataError(
            f"texts of {task.task.name} have the token {tokens}, this model knows {words}: "
            "give the task the tokenizer of the model's folder, tokenizer='FOLDER'"
        )


def _longest(task: TaskView) -> tuple[int, int]:
    """Return the greatest length that texts may have, and the greatest token seen in training and validation."""
    steps = [step for step in steps_of(task.task.frontend()) if step["op"] == "tokenize"]
    splits: tuple[Split, ...] = ("train", "validation")
    texts = [example.inputs["input_ids"] for split in splits for example in task.split(split)]
    return max([step["max_length"] for step in steps] or map(len, texts)), max(int(text.max()) for text in texts)


def _positions(module: Any) -> int | None:
    """Return how many tokens the model has positions for; None where positions are computed without end."""
    for name, layer in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(layer, nn.Embedding):
            return int(layer.num_embeddings) - (0 if layer.padding_idx is None else layer.padding_idx + 1)
    found = getattr(module.model.config, "max_position_embeddings", None)
    return None if found is None else int(found)


def _check_tokens(module: nn.Module, folder: Path, task: TaskView) -> None:
    """Raise DataError where the task cuts texts into other words than the folder's own tokenizer does."""
    steps = [step for step in steps_of(task.task.frontend()) if step["op"] == "tokenize"]
    if not steps or not (folder / TOKENIZER).is_file() or not isinstance(module, _hf_nets.Masked):
        return
    own, given = (_vocabulary(text) for text in ((folder / TOKENIZER).read_text(), steps[0]["tokenizer"]))
    if own != given:
        raise DataError(f"{task.task.name} has another tokenizer than the model: give it tokenizer={str(folder)!r}")


def _vocabulary(text: str) -> Any:
    try:
        return json.loads(text)["model"]["vocab"]
    except (ValueError, LookupError, TypeError) as error:
        raise CorruptFile(f"the folder's {TOKENIZER} is none: {error}") from error
