"""Your own PyTorch module and DataLoaders, in five lines. Takes about half a minute."""

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab


class Net(nn.Module):
    """Any module will do; this one is wider than its task needs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 4))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return class logits [batch, 4] of features [batch, 20]."""
        return self.layers(features)


def data(count: int, seed: int) -> DataLoader:
    """Return points around four corners, with the corner as target."""
    random = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 4, (count,), generator=random)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(1, 10)
    points = corners[targets] + 1.5 * torch.randn(count, 20, generator=random)
    return DataLoader(TensorDataset(points, targets), batch_size=64)


def fit(model: nn.Module, loader: DataLoader) -> None:
    """Train as you always do."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(2):
        for points, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(points), targets).backward()
            optimizer.step()


def main(folder: Path) -> None:
    """Train, trim, and serve the bundle."""
    torch.manual_seed(0)
    train, test = data(2000, seed=1), data(1000, seed=2)
    model = Net()
    fit(model, train)

    result = trimtab.trim(model, (train, test), "accuracy >= base - 0.03", within="1m", train=False, out=folder / "run")
    print(result.document["sentence"])
    if result.bundle is None:
        sys.exit(3)
    with trimtab.load(result.bundle) as bundle:
        points, targets = next(iter(test))
        answer = bundle.predict(points.numpy())["output"].argmax(axis=1)
    print(f"{(answer == targets.numpy()).mean():.0%} of a batch are right")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
