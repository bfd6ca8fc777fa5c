"""GANs on emoji, five seeds of each kind: does the game go on, and do the drawings vary?

``python -m benchmarks.gan`` trains the generator of :mod:`tlbook.learning.networks` on emoji of 32
x 32 pixels, against the encoder of ``pretrain("GAN", ...)`` and against the ``Discriminator`` of a
DCGAN, and writes ``results/benchmarks/gan.json``. The images are those that the pretraining
chapters train on: all variants of labeled emoji but those of which the chapters hold a variant out.

A run has *diverged* if a loss is not finite, if the discriminator has won (over the last quarter
of the epochs its loss is within a tenth of that of one that is never wrong), or if the generator
has collapsed (its drawings vary less than a tenth as much as the images do).
"""

import argparse
import math

import numpy as np
import torch

from benchmarks import save
from tlbook import data, sources
from tlbook.learning.batches import Batches, pixels
from tlbook.methods.adversarial import Discriminator, Generator, diversity, gan_steps
from tlbook.methods.pretraining import pretrain

SIZE, SMOOTHING = 128, 0.1
#: The discriminator's loss where it is never wrong: with smoothing, real images count as 0.9 real
WON = -SMOOTHING * math.log(SMOOTHING) - (1 - SMOOTHING) * math.log(1 - SMOOTHING)
GUESSED = 2 * math.log(2)  # and where it does not know


def emoji() -> np.ndarray:
    """The images to train on."""
    labeled, pool = sources.emoji("twemoji", size=32), sources.emoji_unlabeled("twemoji", size=32)
    parts = data.split(labeled, test=1 / 4, validation=1 / 6)
    held_out = np.concatenate([parts.validation, parts.test])
    rows = sources.apart_from(pool, labeled.groups[held_out])
    rows = rows[np.isin(pool.groups[rows], labeled.groups)]
    return pool.x[rows]


def with_encoder(images: np.ndarray, epochs: int, seed: int) -> tuple[Generator, list]:
    found = pretrain("GAN", images, epochs=epochs, batch_size=SIZE, seed=seed, progress=False)
    return found.generator, found.losses.tolist()


def with_dcgan(images: np.ndarray, epochs: int, seed: int) -> tuple[Generator, list]:
    torch.manual_seed(seed)
    networks = Generator(size=32, width=16), Discriminator(size=32, width=16)
    optimizers = [torch.optim.Adam(n.parameters(), 1e-3, betas=(0.5, 0.999)) for n in networks]
    batches = Batches({"x": pixels(images)}, SIZE, epochs, seed=seed)
    steps = gan_steps(*networks, batches, *optimizers, smoothing=SMOOTHING, seed=seed)
    losses = [step.discriminator_loss for step in steps]
    return networks[0].eval(), np.reshape(losses, (epochs, -1)).mean(1).tolist()


KINDS = {"encoder": with_encoder, "DCGAN": with_dcgan}


@torch.inference_mode()
def troubles(generator: Generator, losses: list[float], images: np.ndarray) -> dict:
    """What the run came to, and the names of what went wrong."""
    noise = torch.randn(256, generator.latent, generator=torch.Generator().manual_seed(0))
    varied = diversity(generator(noise), pixels(images[:256]))
    last = float(np.mean(losses[-max(1, len(losses) // 4) :]))
    signs = {
        "not finite": not np.isfinite(losses).all(),
        "discriminator won": last < WON + 0.1 * (GUESSED - WON),
        "collapsed": varied < 0.1,
    }
    found = [name for name, seen in signs.items() if seen]
    return {"diversity": round(varied, 3), "last_loss": round(last, 3), "troubles": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    images = emoji()
    figures = {"images": len(images), "epochs": arguments.epochs, "won": round(WON, 3)}
    figures["guessed"] = round(GUESSED, 3)
    for kind, train in KINDS.items():
        runs = []
        for seed in range(arguments.seeds):
            generator, losses = train(images, arguments.epochs, seed)
            run = {"seed": seed} | troubles(generator, losses, images)
            runs.append(run)
            print(f"{kind:8}{run}", flush=True)
        sound = sum(not run["troubles"] for run in runs)
        figures[kind] = {"without_trouble": f"{sound} of {len(runs)}", "runs": runs}
        print(f"{kind:8}{sound} of {len(runs)} without trouble")
    print(save("gan", figures, ["torch", "numpy"]))


if __name__ == "__main__":
    main()
