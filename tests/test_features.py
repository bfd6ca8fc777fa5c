"""Features against independent paths, in any order and batch, from cache, and what is refused."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from tlbook.learning.features import features, mean_pool, pad, preprocess, token_ids
from tlbook.sources import cache
from tlbook.sources.encoders import TextEncoder
from tlbook.sources.pretrained import load
from tlbook.sources.texts import reviews


@pytest.fixture(scope="module")
def minilm():
    return load("minilm-l6")


@pytest.fixture(scope="module")
def lite0():
    return load("efficientnet-lite0")


@pytest.fixture(scope="module")
def texts():
    """Real reviews of 3 to 200 tokens, in no order of length, some of them twice."""
    chosen = reviews("amazon").x[:60].tolist()
    return [*chosen, "good .", chosen[7], chosen[3], ""]


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 40, 30, 3), dtype=np.uint8)


@pytest.fixture
def tiny(minilm):
    """A small random encoder that a test may spoil."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=30522, num_hidden_layers=1, **sizes)
    return TextEncoder("tiny", BertModel(config).eval(), minilm.tokenizer, "mean", False, 64, 16)


@pytest.fixture
def empty_cache(tmp_path, minilm, lite0, texts, monkeypatch):
    """An empty cache folder, for tests that begin after the assets were read."""
    monkeypatch.setenv("TLBOOK_CACHE", str(tmp_path))
    return tmp_path


def one_by_one(encoder, texts):
    """The model card's own lines, a text at a time."""
    rows = []
    with torch.no_grad():
        for text in texts:
            batch = encoder.tokenizer(
                [text], truncation=True, max_length=encoder.max_length, return_tensors="pt"
            )
            hidden = encoder.model(**batch).last_hidden_state[0]
            vector = hidden.mean(0) if encoder.pool == "mean" else hidden[0]
            rows.append(vector / vector.norm() if encoder.normalize else vector)
    return torch.stack(rows).numpy()


# Texts


def test_mean_pool_leaves_padding_out():
    hidden, mask = torch.randn(3, 5, 4), torch.tensor([[1] * 5, [1, 1, 0, 0, 0], [0] * 5])
    pooled = mean_pool(hidden, mask)
    torch.testing.assert_close(pooled[0], hidden[0].mean(0))
    torch.testing.assert_close(pooled[1], hidden[1, :2].mean(0))
    assert torch.equal(pooled[2], torch.zeros(4))


@torch.inference_mode()
def test_padding_changes_nothing(minilm, texts):
    """Mean pooling of a padded batch, against each text without padding."""
    ids, mask = pad(minilm, token_ids(minilm, texts))
    assert (mask == 0).any()
    pooled = mean_pool(minilm.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
    np.testing.assert_allclose(
        nn.functional.normalize(pooled), one_by_one(minilm, texts), atol=1e-5
    )


def test_equals_sentence_transformers(minilm, texts):
    library = pytest.importorskip("sentence_transformers")
    peer = library.SentenceTransformer(minilm.tokenizer.name_or_path, device="cpu")
    expected = peer.encode(texts, show_progress_bar=False)
    got = features(minilm, texts, cache=False)
    assert (got.dtype, got.shape) == (np.float32, (len(texts), 384))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_equals_one_by_one(tiny, texts, pool, normalize):
    tiny.pool, tiny.normalize = pool, normalize
    got = features(tiny, texts, cache=False)
    np.testing.assert_allclose(got, one_by_one(tiny, texts), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_neither_order_nor_batches_matter(minilm, texts, batch_size):
    expected = features(minilm, texts, cache=False)
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = [texts[i] for i in order]
    got = features(minilm, shuffled, batch_size=batch_size, cache=False)
    np.testing.assert_allclose(got, expected[order], atol=1e-5)


def test_batches_are_bounded_and_equal_texts_embedded_once(tiny, texts):
    shapes = []
    tiny.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    features(tiny, texts, batch_size=4, cache=False)
    assert sum(n for n, _ in shapes) == len(set(texts)) < len(texts)
    assert all(n == 1 or n * longest <= 4 * 32 for n, longest in shapes)
    assert len(shapes) < len(set(texts))


def test_arrays_and_series_of_texts(tiny, texts):
    expected = features(tiny, texts, cache=False)
    for kind in (tuple(texts), np.array(texts), np.array(texts, dtype=object)):
        assert np.array_equal(features(tiny, kind, cache=False), expected)


def test_cut_texts_are_counted(tiny):
    exact = "word " * (tiny.max_length - 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features(tiny, [exact, "short"], cache=False)
    with pytest.warns(UserWarning, match="2 of 3 texts are longer than the 64 tokens") as caught:
        got = features(tiny, [exact + "more", "short", exact + "other"], cache=False)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.array_equal(got[0], got[2])
    np.testing.assert_allclose(got[0], features(tiny, [exact], cache=False)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "none"),
        (None, "NoneType.*augmentation"),
        ("one text", "list of texts"),
        (["half \ud83d"], "row 0 holds half of a surrogate pair"),
        (["a", None], "row 1 is missing"),
        ([3], "row 0 is not a string but 3"),
        ([b"bytes"], "row 0 is not a string"),
        ((text for text in ["a"]), "generator.*augmentation"),
        (lambda: ["a"], "function.*augmentation"),
    ],
)
def test_inputs_that_are_no_texts(tiny, inputs, message):
    with pytest.raises(ValueError, match=message):
        features(tiny, inputs)


# Images


@torch.inference_mode()
def test_preprocess(lite0):
    """Against Pillow's resize with antialiasing, which rounds to whole pixels."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photograph = load_sample_image("china.jpg")
    got = preprocess(lite0, photograph[None])
    resized = Image.fromarray(photograph).resize((224, 224), Image.Resampling.BILINEAR)
    expected = (np.asarray(resized, dtype=np.float32) - 127) / 128
    np.testing.assert_allclose(got[0].permute(1, 2, 0), expected, atol=1.5 / 128)


@torch.inference_mode()
@pytest.mark.parametrize("handle", ["efficientnet-lite0", "mobilenet-v2"])
def test_image_features_do_not_depend_on_batches(handle, images):
    encoder = load(handle)
    got = features(encoder, images, cache=False)
    assert (got.dtype, got.shape) == (np.float32, (5, 1280))
    again = features(encoder, images[::-1], batch_size=2, cache=False)[::-1]
    np.testing.assert_allclose(got, again, atol=1e-4)
    alone = [encoder.model.embed(preprocess(encoder, image[None]))[0] for image in images]
    np.testing.assert_allclose(got, torch.stack(alone), atol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x / 255, "uint8"),
        (lambda x: x.astype(int), "uint8"),
        (lambda x: x[0], "shape"),
        (lambda x: x.transpose(0, 3, 1, 2), "shape"),
        (lambda x: np.concatenate([x, x[..., :1]], 3), "alpha"),
        (lambda x: x[:0], "none"),
        (lambda x: x[:, :0], "shape"),
        (list, "np.stack"),
        (lambda x: None, "augmentation"),
        (iter, "augmentation"),
    ],
)
def test_inputs_that_are_no_images(lite0, images, spoil, message):
    with pytest.raises(ValueError, match=message):
        features(lite0, spoil(images))


# Cache


def count_calls(model):
    calls = []
    forward = model.forward

    def counted(*arguments, **options):
        calls.append(1)
        return forward(*arguments, **options)

    model.forward = counted  # not a hook, under which nothing is kept
    return calls


def test_nothing_is_kept_or_read_under_a_hook(empty_cache, tiny, texts):
    plain = features(tiny, texts)
    hook = tiny.model.embeddings.register_forward_hook(lambda module, inputs, output: 2 * output)
    hooked = features(tiny, texts)
    hook.remove()
    assert not np.allclose(hooked, plain)
    assert np.array_equal(features(tiny, texts), plain)
    assert len(list(empty_cache.rglob("*.npy"))) == 1


@pytest.mark.parametrize("table", [pd.DataFrame({"text": ["a"]}), {"text": ["a"]}])
def test_a_table_is_no_list_of_texts(tiny, table):
    with pytest.raises(ValueError, match=r"pass one column, such as table\['text'\]"):
        features(tiny, table)


def test_second_time_from_cache(empty_cache, tiny, texts):
    calls = count_calls(tiny.model)
    first = features(tiny, texts)
    count = len(calls)
    assert count > 0
    assert np.array_equal(features(tiny, texts), first)
    assert len(calls) == count
    assert len(list(empty_cache.rglob("*.npy"))) == 1
    features(tiny, texts, cache=False)
    assert len(calls) == 2 * count


def test_image_features_from_cache(empty_cache, lite0, images):
    calls = count_calls(lite0.model.stem)
    first = features(lite0, images, batch_size=8)
    assert len(calls) == 1
    assert np.array_equal(features(lite0, images, batch_size=8), first)
    assert len(calls) == 1
    features(lite0, images[:, :, ::-1], batch_size=8)
    assert len(calls) == 2


def test_whatever_changes_the_result_is_computed_anew(empty_cache, tiny, minilm, texts):
    def changed(attribute, value):
        setattr(tiny, attribute, value)
        return features(tiny, texts)

    results = [features(tiny, texts)]
    with torch.no_grad():
        next(tiny.model.parameters()).mul_(1.1)
    results.append(features(tiny, texts))
    results.append(changed("pool", "cls"))
    results.append(changed("normalize", True))
    with pytest.warns(UserWarning, match="longer"):
        results.append(changed("max_length", 8))
        results.append(features(tiny, texts[::-1]))
    for i, first in enumerate(results):
        for second in results[i + 1 :]:
            assert not np.array_equal(first, second)
    assert len(list((cache.folder() / "features").iterdir())) == len(results)


# Frozen


@pytest.mark.parametrize("part", ["all", "one dropout"])
def test_training_mode_is_refused(tiny, part):
    tiny.model.train() if part == "all" else tiny.model.embeddings.dropout.train()
    with pytest.raises(ValueError, match=r"training mode.*model\.eval\(\)"):
        features(tiny, ["a text"])


def test_image_model_in_training_mode_is_refused(images):
    encoder = load("mobilenet-v2")
    encoder.model.blocks[3].train()  # batch statistics in one block
    with pytest.raises(ValueError, match="training mode"):
        features(encoder, images)


def test_the_model_stays_as_it_is(tiny, images):
    for encoder, inputs in ((tiny, ["a text"]), (load("mobilenet-v2"), images)):
        before = encoder.fingerprint
        features(encoder, inputs, cache=False)
        assert encoder.fingerprint == before
        assert all(parameter.requires_grad for parameter in encoder.model.parameters())


def test_batch_size(tiny):
    with pytest.raises(ValueError, match="at least 1"):
        features(tiny, ["a text"], batch_size=0)


def test_the_benchmark_counts_what_torch_counts(tiny):
    pytest.importorskip("sentence_transformers")
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.features import flops

    ids, mask = pad(tiny, token_ids(tiny, ["some words to count", "another four or five"]))
    tiny.model.pooler = None
    tiny.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        tiny.model(input_ids=ids, attention_mask=mask)
    n, longest = ids.shape
    assert counter.get_total_flops() == flops(tiny.model.config, n * longest, n * longest**2)
