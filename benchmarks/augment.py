"""Speed of ``tlbook.learning.augment`` against the same operations image by image in PIL.

``python -m benchmarks.augment`` crops, mirrors, turns, shifts and recolors the same 1,024 images
of 32 x 32 pixels by each method, in turns, and writes ``results/benchmarks/augment.json``. Both
start from an array of uint8 and end with floats (n, 3, 32, 32) in 0..1, as a network takes them.
Times are CPU seconds of all threads, the least of the turns. ``contrastive`` leaves out turning and
shifting, for which PIL needs a second interpolation; it is what contrastive views need.
"""

import argparse
import math

import numpy as np
import torch
from PIL import Image, ImageEnhance

from benchmarks import measure, save
from tlbook.learning.augment import augment
from tlbook.sources.images import emoji_unlabeled

OPTIONS = {
    "contrastive": {},
    "all": {"degrees": 15.0, "shift": 0.1},
}


def batched(images: np.ndarray, generator: torch.Generator, size: int, **options) -> torch.Tensor:
    """Whole batches, from uint8 to floats."""
    return torch.cat(
        [
            augment(torch.from_numpy(part).permute(0, 3, 1, 2).float() / 255, generator, **options)
            for part in np.array_split(images, math.ceil(len(images) / size))
        ]
    )


def one_by_one(
    images: np.ndarray, rng: np.random.Generator, degrees: float = 0.0, shift: float = 0.0
) -> torch.Tensor:
    """The plain pipeline: each image through PIL, with the defaults of ``augment``."""
    rows = []
    for array in images:
        image = Image.fromarray(array)
        side, ratio = math.sqrt(rng.uniform(0.3, 1)), rng.uniform(math.log(3 / 4), math.log(4 / 3))
        width = min(image.width, image.width * side * math.exp(ratio / 2))
        height = min(image.height, image.height * side / math.exp(ratio / 2))
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        box = (left, top, left + width, top + height)
        image = image.resize(image.size, Image.Resampling.BILINEAR, box=box)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if degrees or shift:
            by = tuple(shift * image.width * rng.uniform(-1, 1, 2))
            angle = degrees * rng.uniform(-1, 1)
            white = (255, 255, 255)  # the ground of these images; augment repeats what is there
            image = image.rotate(angle, Image.Resampling.BILINEAR, translate=by, fillcolor=white)
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.6, 1.4))
        image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.6, 1.4))
        saturation = 0.0 if rng.random() < 0.2 else rng.uniform(0.6, 1.4)
        image = ImageEnhance.Color(image).enhance(saturation)
        rows.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255)
    return torch.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = emoji_unlabeled(size=32).x[: arguments.images]
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    figures = {name: getattr(arguments, name) for name in ("turns", "threads", "images", "batch")}
    for name, options in OPTIONS.items():
        methods = {
            "augment": lambda o=options: batched(images, generator, arguments.batch, **o),
            "one_by_one": lambda o=options: one_by_one(images, rng, **o),
        }
        least, results = measure(methods, arguments.turns)
        rate = {method: round(float(len(images) / cpu), 1) for method, (cpu, _) in least.items()}
        speedup = round(rate["augment"] / rate["one_by_one"], 2)
        # the same operations with the same ranges leave the same spread of colors
        spread = {
            m: [round(float(f(x)), 3) for f in (torch.mean, torch.std)] for m, x in results.items()
        }
        figures[name] = {"images_per_cpu_second": rate, "speedup": speedup, "mean_and_std": spread}
        print(f"{name:12} {rate}  speedup {speedup:.2f}  goal 3.00")
    print(save("augment", figures, ["torch", "pillow", "numpy"]))


if __name__ == "__main__":
    main()
