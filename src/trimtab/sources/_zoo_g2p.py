"""Letters to sounds: the recurrent encoder and decoder of g2p-en, 0.8 M weights, as two parts of a greedy program.

The encoder reads a word's letters once; its last state starts the decoder, which takes one step for each sound. A step
is a part of its own, so that a runtime needs no loops: the driver feeds the state back (`trimtab.run.program`). The
published gates are torch's: n = tanh(Wx + b + r (Uh + c)), with r and z before n in the weights.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.errors import CorruptFile
from trimtab.packages import Parcel, fetch
from trimtab.values.model import Greedy, Signature, TensorSpec

PARCEL = Parcel(
    "pypi",
    "g2p-en",
    "2.1.0",
    "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
    "g2p_en/checkpoint20.npz",
)
LETTERS, PHONEMES, WIDTH = 29, 74, 256
PROGRAM = Greedy("encoder", "decoder", start=2, stop=3, max_length=20)
GATES = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
NAMES = {
    "encoder": {"enc_emb": "embed.weight", **{f"enc_{n}": f"core.{w}_l0" for n, w in GATES.items()}},
    "decoder": {
        "dec_emb": "embed.weight",
        **{f"dec_{n}": f"core.{w}" for n, w in GATES.items()},
        "fc_w": "head.weight",
        "fc_b": "head.bias",
    },
}
"""What the published arrays are called here."""


def g2p_encoder(width: int = WIDTH) -> nn.Module:
    """Return the encoder: letters int64 [N, T] and length int64 [N] to a state [N, width]."""
    return Encoder(width)


def g2p_decoder(width: int = WIDTH) -> nn.Module:
    """Return the decoder: a token int64 [N] and a state [N, width] to logits [N, 74] and the next state."""
    return Decoder(width)


def signatures(width: int) -> dict[str, Signature]:
    """Return what each part takes and gives."""
    letters, length = TensorSpec("letters", "int64", ("batch", "time")), TensorSpec("length", "int64", ("batch",))
    state, state_out = (TensorSpec(name, "float32", ("batch", width)) for name in ("state", "state_out"))
    token, logits = TensorSpec("token", "int64", ("batch",)), TensorSpec("logits", "float32", ("batch", PHONEMES))
    return {
        "encoder": Signature((letters, length), (state,)),
        "decoder": Signature((token, state), (logits, state_out), {"state_out": "state"}),
    }


def fill(nets: Mapping[str, nn.Module]) -> None:
    """Fill in g2p-en's weights; downloads 3 MB on first use. Raises CorruptFile where the file does not hold them."""
    path = fetch(PARCEL)
    try:
        with np.load(path, allow_pickle=False) as file:
            for part, net in nets.items():
                net.load_state_dict({ours: torch.from_numpy(file[theirs]) for theirs, ours in NAMES[part].items()})
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise CorruptFile(f"{path} does not hold the weights of g2p-en: {error}") from error


class Encoder(nn.Module):
    """Reads letters; the state after the last of them is the answer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(LETTERS, width)
        self.core = nn.GRU(width, width, batch_first=True)

    def forward(self, letters: Tensor, length: Tensor) -> dict[str, Tensor]:
        """Return `state` [N, width]."""
        steps, _ = self.core(self.embed(letters))
        last = (length - 1).reshape(-1, 1, 1).expand(-1, 1, steps.shape[2])
        return {"state": steps.gather(1, last)[:, 0]}


class Decoder(nn.Module):
    """Takes one step: from the last sound and the state to the scores of the next sound."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(PHONEMES, width)
        self.core = nn.GRUCell(width, width)
        self.head = nn.Linear(width, PHONEMES)

    def forward(self, token: Tensor, state: Tensor) -> dict[str, Tensor]:
        """Return `logits` [N, 74] and `state_out` [N, width]."""
        state = self.core(self.embed(token), state)
        return {"logits": self.head(state), "state_out": state}
