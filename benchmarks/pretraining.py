"""Speed of ``tlbook.methods.pretraining`` against the usual recipe for SimCLR, from one run.

``python -m benchmarks.pretraining`` trains for an epoch on the same 1,024 emoji of 32 x 32 pixels
by each method, in turns, and writes ``results/benchmarks/pretraining.json``. The recipe is the one
in lightly's documentation with torchvision's transforms, written here with PIL: a ``DataLoader``
in this process augments image by image, the encoder sees one view and then the other, NT-Xent
masks the diagonal of 2n x 2n similarities. Network, optimizer, batch size and augmentations are
those of ``pretrain``, which also schedules the learning rate, clips gradients, and has the channels
of a pixel side by side in memory.

Times are CPU seconds of all threads, the least of the turns. An image counts once, though it is
seen in two views. *Augmentation* makes the views and does nothing with them; *network* trains on
views made before, and so is what no augmentation could be faster than.
"""

import argparse
import os
import tempfile
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.utils.data import DataLoader

from benchmarks import measure, save
from benchmarks.augment import one_by_one
from tlbook.learning.augment import two_views
from tlbook.learning.batches import Batches, pixels
from tlbook.learning.loop import steps
from tlbook.learning.networks import ConvEncoder
from tlbook.methods.pretraining import pretrain, projection
from tlbook.methods.selfsupervised import simclr
from tlbook.sources.images import emoji_unlabeled

TEMPERATURE = 0.2


def nt_xent(z0: torch.Tensor, z1: torch.Tensor, temperature: float) -> torch.Tensor:
    """As lightly has it: all similarities but those with oneself, the other view is the class."""
    n = len(z0)
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    others = ~torch.eye(2 * n, dtype=torch.bool)
    logits = (z @ z.T / temperature)[others].view(2 * n, 2 * n - 1)
    first = torch.arange(n)
    return F.cross_entropy(logits, torch.cat([first + n - 1, first]))


class Views(torch.utils.data.Dataset):
    """Two views of an image, made when they are asked for."""

    def __init__(self, images: np.ndarray, seed: int = 0):
        self.images, self.rng = images, np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.images[index : index + 1]
        return one_by_one(image, self.rng)[0], one_by_one(image, self.rng)[0]


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    encoder = ConvEncoder(128, width=16)
    model = nn.Sequential(encoder, projection(encoder, 0))
    return model, AdamW(model.parameters(), 3e-3, weight_decay=1e-4)


def recipe(loader) -> float:
    """Train for an epoch; the mean loss."""
    model, optimizer = network()
    losses = []
    for view0, view1 in loader:
        loss = nt_xent(model(view0), model(view1), TEMPERATURE)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return float(np.mean(losses))


def ours(images: np.ndarray, size: int) -> float:
    """All of ``pretrain``: also its key, and a file in a cache that is new each time."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, TLBOOK_CACHE=folder):
        return float(
            pretrain("SimCLR", images, epochs=1, batch_size=size, progress=False).losses[0]
        )


def ready_made(batches: Batches) -> None:
    """Our loop on views that are there, with the channels where ``pretrain`` puts them."""
    model, optimizer = network()
    model.to(memory_format=torch.channels_last)
    for _ in steps(model, simclr(TEMPERATURE), batches, optimizer):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images, size = emoji_unlabeled(size=32).x[: arguments.images], arguments.batch
    x, generator = pixels(images), torch.Generator().manual_seed(0)
    view1, view2 = two_views(x, generator)
    loader = DataLoader(Views(images), size, shuffle=True)
    ready = list(zip(view1.split(size), view2.split(size), strict=True))
    methods = {
        "pretrain": {
            "whole": lambda: ours(images, size),
            "augmentation": lambda: [
                two_views(batch["x"], generator) for batch in Batches({"x": pixels(images)}, size)
            ],
            "network": lambda: ready_made(Batches({"view1": view1, "view2": view2}, size)),
        },
        "recipe": {
            "whole": lambda: recipe(loader),
            "augmentation": lambda: list(loader),
            "network": lambda: recipe(ready),
        },
    }
    least, results = measure(
        {(name, part): run for name, parts in methods.items() for part, run in parts.items()},
        arguments.turns,
    )
    seconds = {arm: float(cpu) for arm, (cpu, _) in least.items()}
    figures = {name: getattr(arguments, name) for name in ("turns", "threads", "images", "batch")}
    for name, parts in methods.items():
        rates = {part: round(len(images) / seconds[name, part], 1) for part in parts}
        share = seconds[name, "augmentation"] / seconds[name, "whole"]
        figures[name] = {
            "images_per_cpu_second": rates,
            "share_of_augmentation": round(share, 3),
            # of one epoch: the two draw other views, and should learn as much
            "loss": round(results[name, "whole"], 3),
        }
        print(f"{name:10}{figures[name]}")
    figures["speedup"] = {
        part: round(seconds["recipe", part] / seconds["pretrain", part], 2)
        for part in methods["recipe"]
    }
    bound = seconds["recipe", "whole"] / seconds["recipe", "network"]
    figures["speedup_if_augmentation_took_no_time"] = round(bound, 2)
    print(f"speedup {figures['speedup']}  goal 3.00 for the augmentation")
    print(f"if augmentation took no time, the recipe would be faster by {bound:.2f}")
    print(save("pretraining", figures, ["torch", "pillow", "numpy"]))


if __name__ == "__main__":
    main()
