"""What the chapter on pretraining without labels trains and draws."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from tlbook.data import Dataset
from tlbook.methods.selfsupervised import simclr
from tlbook.methods.unlabeled import (
    MASK,
    Classifier,
    contrasted,
    draw_views,
    fine_tuned,
    guesses,
    language_model,
    probe,
    projected_encoder,
    small_bert,
    word_pieces,
)

SENTENCES = ["a good film .", "a bad film .", "the film was good .", "the film was bad ."] * 8


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("TLBOOK_CACHE", str(tmp_path))


def test_encoders_are_trained_once_and_by_what_they_are_told():
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    asked = []

    def loss_of(generator):
        asked.append(generator.initial_seed())
        return simclr(0.2, lambda x: (x, x.flip(3)))

    first, again = (contrasted(loss_of, images, 3, "flips") for _ in range(2))
    assert asked == [3, 3] and not first.training
    before = projected_encoder(3).state_dict()
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.state_dict()["1.0.weight"], before["1.0.weight"])


def test_a_probe_reads_the_convolutions_or_what_the_loss_reads():
    y = np.arange(24) % 2
    x = np.repeat(y * 255, 16 * 16 * 3).reshape(24, 16, 16, 3).astype(np.uint8)
    data = Dataset("black or white", x, y, ("black", "white"), np.arange(24))
    seeds = []

    def trained(seed):
        seeds.append(seed)
        network = projected_encoder(seed).eval()
        if seed == 1:
            torch.nn.init.zeros_(network[1][-1].weight)  # the projection has lost everything
        return network

    rows, tests = np.arange(12), np.arange(12, 24)
    for top, seed, expected in ((False, 0, 1), (True, 0, 1), (False, 1, 1), (True, 1, 0.5)):
        found = probe(trained, data, top=top)(rows, tests, seed)
        assert (found == y[tests]).mean() == expected
    assert seeds == [0, 0, 1, 1]


def test_a_language_model_fills_a_gap_with_what_it_read():
    tokenizer = word_pieces(SENTENCES, 60)
    assert [tokenizer.token_to_id(t) for t in ("[PAD]", "[UNK]", "[MASK]")] == [0, 1, MASK]
    assert tokenizer.encode("A Good FILM").tokens == ["a", "good", "film"]
    tokens = [tokenizer.encode(text).ids for text in SENTENCES]
    size = tokenizer.get_vocab_size()
    model, losses, seconds = language_model(tokens, size, 0, epochs=60)
    assert len(losses) == 60 and losses[-5:].mean() < losses[0] / 2 and seconds > 0
    likeliest = guesses(model, tokenizer, "the film ___ bad .", n=2)
    assert likeliest[0].startswith("was (") and len(likeliest) == 2
    torch.testing.assert_close(language_model(tokens, size, 0, epochs=60)[1], losses)


def test_a_classifier_takes_the_mean_of_real_tokens():
    model = Classifier(small_bert(20, 0), 2).eval()
    ids, mask = torch.tensor([[5, 6, 7]]), torch.ones(1, 3)
    padded = torch.cat([ids, torch.zeros(1, 2, dtype=int)], 1)
    longer = torch.cat([mask, torch.zeros(1, 2)], 1)
    torch.testing.assert_close(model(ids, mask).logits, model(padded, longer).logits)


def test_fine_tuning_learns_which_token_decides():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    tokens = [[int(t), 3 + label] for t, label in zip(rng.integers(5, 20, 40), y, strict=True)]
    seeds = []

    def start(seed):
        seeds.append(seed)
        return small_bert(20, seed)

    found = fine_tuned(start, tokens, y)(np.arange(20), np.arange(20, 40), 7)
    assert seeds == [7] and (found == y[20:]).mean() > 0.9


def test_each_view_has_its_partner_framed():
    views = torch.rand(2, 3, 3, 4, 4)
    vectors = torch.randn(6, 5)
    fig = draw_views(views, vectors)
    matrix = next(ax for ax in fig.axes if ax.patches and len(ax.images[0].get_array()) == 6)
    frames = [tuple(np.add(patch.get_xy(), 0.5).astype(int)) for patch in matrix.patches]
    assert frames == [(3, 0), (4, 1), (5, 2), (0, 3), (1, 4), (2, 5)]
    shown = matrix.images[0].get_array()
    expected = torch.cosine_similarity(vectors[0], vectors[4], dim=0)
    assert float(shown[0, 4]) == pytest.approx(float(expected)) and np.ma.is_masked(shown[2, 2])
    second = fig.axes[1].images[0].get_array()  # beside the first view of the same image
    assert np.allclose(second, views[1][0].permute(1, 2, 0))
    plt.close(fig)
