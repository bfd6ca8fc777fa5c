"""An encoder as a step of scikit-learn: what users of scikit-learn expect of one, and its cache."""

import copy
import pickle
import sqlite3

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import validate_data
from transformers import BertConfig, BertModel

from tlbook.learning import features, transformer
from tlbook.learning.transformer import FrozenFeatures
from tlbook.sources.pretrained import load
from tlbook.sources.texts import reviews


@pytest.fixture(scope="module")
def minilm():
    return load("minilm-l6")


@pytest.fixture(scope="module")
def lite0():
    return load("efficientnet-lite0")


@pytest.fixture(scope="module")
def tiny(minilm, tmp_path_factory):
    """A folder with a small random encoder."""
    folder = tmp_path_factory.mktemp("tiny")
    save(folder, minilm, seed=0)
    return str(folder)


def save(folder, minilm, seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=30522, num_hidden_layers=1, **sizes)).save_pretrained(folder)
    minilm.tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def products():
    data = reviews("amazon")
    return data.x[:60].tolist(), data.y[:60]


@pytest.fixture
def texts(products):
    return products[0]


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, minilm, lite0, products, monkeypatch):
    """An empty cache folder, after the assets were read; the models in memory stay."""
    transformer._loaded("minilm-l6", None, None, None, ())
    transformer._loaded("efficientnet-lite0", None, None, None, ())
    monkeypatch.setenv("TLBOOK_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def embedded(monkeypatch):
    """How many inputs each call of the encoder was given."""
    counts, original = [], features.features

    def counted(encoder, inputs, **options):
        counts.append(len(inputs))
        return original(encoder, inputs, **options)

    monkeypatch.setattr(features, "features", counted)
    return counts


# Features


@pytest.mark.parametrize("cache", [True, False])
def test_the_features_are_those_of_features(minilm, texts, cache):
    expected = features.features(minilm, texts, cache=False)
    got = FrozenFeatures("minilm-l6", cache=cache).fit_transform(texts)
    assert (got.dtype, got.shape) == (np.float32, (60, 384))
    np.testing.assert_array_equal(got, expected)


def test_images(lite0, images):
    step = FrozenFeatures("efficientnet-lite0", batch_size=2).fit(images)
    got = step.transform(images)
    np.testing.assert_allclose(got, features.features(lite0, images, cache=False), atol=1e-4)
    assert not hasattr(step, "n_features_in_")
    np.testing.assert_array_equal(step.transform(images[::-1]), got[::-1])


@pytest.mark.parametrize(
    "column",
    [
        tuple,
        np.array,
        lambda texts: np.array(texts, object),
        lambda texts: np.array(texts, object)[:, None],
        lambda texts: pd.Series(texts, index=range(7, 67)),
        lambda texts: pd.Series(texts, dtype="string"),
        lambda texts: pd.Series(texts, dtype="category"),
        lambda texts: pd.DataFrame({"text": texts}, index=range(7, 67)),
    ],
    ids=["tuple", "str", "object", "2-D", "Series", "string", "category", "frame"],
)
def test_a_column_in_every_form(tiny, texts, column):
    expected = FrozenFeatures(tiny).transform(texts)
    step = FrozenFeatures(tiny).fit(column(texts))
    np.testing.assert_array_equal(step.transform(column(texts)), expected)
    assert step.n_features_in_ == 1


def test_pooling_and_length_are_passed_on(tiny, texts):
    default = FrozenFeatures(tiny).transform(texts)
    for options in ({"pool": "cls"}, {"normalize": True}):
        got = FrozenFeatures(tiny, **options).transform(texts)
        expected = features.features(load(tiny, **options), texts, cache=False)
        np.testing.assert_allclose(got, expected, atol=1e-5)
        assert np.abs(got - default).max() > 0.1


# The cache


def test_each_text_is_embedded_once_whatever_its_company(texts, embedded):
    step = FrozenFeatures("minilm-l6")
    whole = step.transform([*texts[:40], *texts[:10]])
    assert embedded == [40]
    shuffled = step.transform([texts[i] for i in (50, 3, 39, 3, 51)])
    assert embedded == [40, 2]
    np.testing.assert_array_equal(shuffled[[1, 2, 3]], whole[[3, 39, 3]])
    FrozenFeatures("minilm-l6").transform(texts[:52])
    assert embedded == [40, 2, 10]


def test_folds_and_heads_cost_one_pass_and_the_second_run_none(products, embedded):
    search = GridSearchCV(
        make_pipeline(FrozenFeatures("minilm-l6"), LogisticRegression()),
        {"logisticregression__C": [0.1, 1, 10]},
        cv=3,
    )
    first = search.fit(*products).cv_results_["mean_test_score"]
    assert sum(embedded) == 60
    again = clone(search).fit(*products).cv_results_["mean_test_score"]
    assert sum(embedded) == 60
    np.testing.assert_array_equal(first, again)


def test_encoders_do_not_mix_in_the_cache(tiny, texts, embedded):
    FrozenFeatures(tiny).transform(texts)
    FrozenFeatures(tiny, pool="cls").transform(texts)
    FrozenFeatures("minilm-l6").transform(texts)
    shorter = load(tiny)
    shorter.max_length = 8
    with pytest.warns(UserWarning, match="only their beginning counts") as seen:
        FrozenFeatures(shorter).transform(texts)
    assert len(seen) == 1
    assert embedded[:3] == [60, 60, 60] and len(embedded) == 4


def test_without_cache_nothing_is_written(texts, embedded, empty_cache):
    step = FrozenFeatures("minilm-l6", cache=False)
    step.transform(texts[:5])
    step.transform(texts[:5])
    assert embedded == [5, 5] and not list(empty_cache.iterdir())


def test_a_damaged_file_is_named_and_does_no_harm(texts, empty_cache):
    expected = FrozenFeatures("minilm-l6").transform(texts[:5])
    (empty_cache / "frozen.sqlite").write_bytes(b"no database" * 100)
    with pytest.warns(UserWarning, match=r"cannot write .*frozen\.sqlite"):
        got = FrozenFeatures("minilm-l6").transform(texts[:5])
    np.testing.assert_array_equal(got, expected)


def test_a_vector_cut_short_is_computed_again(texts, empty_cache):
    expected = FrozenFeatures("minilm-l6").transform(texts[:5])
    store = sqlite3.connect(empty_cache / "frozen.sqlite")
    with store:
        store.execute("UPDATE vectors SET vector = x'00'")
    store.close()
    np.testing.assert_array_equal(FrozenFeatures("minilm-l6").transform(texts[:5]), expected)


# In scikit-learn


def test_cross_validation(minilm, products):
    texts, y = products
    model = make_pipeline(FrozenFeatures("minilm-l6"), LogisticRegression())
    vectors = features.features(minilm, texts, cache=False)
    expected = cross_val_score(LogisticRegression(), vectors, y, cv=3)
    np.testing.assert_allclose(cross_val_score(model, texts, y, cv=3), expected)
    np.testing.assert_allclose(cross_val_score(model, pd.Series(texts), y, cv=3), expected)


def test_a_grid_over_encoders_loads_each_once(tiny, products, monkeypatch):
    loads = []
    original = load

    def counted(handle, **options):
        loads.append(handle)
        return original(handle, **options)

    transformer._loaded.cache_clear()
    monkeypatch.delenv("TLBOOK_CACHE")
    monkeypatch.setattr("tlbook.sources.pretrained.load", counted)
    search = GridSearchCV(
        make_pipeline(FrozenFeatures(cache=False), LogisticRegression(C=10)),
        {"frozenfeatures__encoder": [tiny, "minilm-l6"]},
        cv=3,
    ).fit(*products)
    assert loads == [tiny, "minilm-l6"]
    assert search.best_params_ == {"frozenfeatures__encoder": "minilm-l6"}
    assert search.predict(["It broke after a day ."]).shape == (1,)


@pytest.mark.slow
def test_processes_side_by_side(tiny, products):
    model = make_pipeline(FrozenFeatures(tiny), LogisticRegression())
    alone = cross_validate(model, *products, cv=2, return_estimator=True)
    pair = cross_validate(clone(model), *products, cv=2, n_jobs=2, return_estimator=True)
    np.testing.assert_array_equal(alone["test_score"], pair["test_score"])
    fitted = pair["estimator"][0]
    assert fitted.predict(products[0]).shape == (60,)


def test_threads_share_one_encoder(tiny, products):
    from joblib import parallel_config

    model = make_pipeline(FrozenFeatures(tiny), LogisticRegression())
    expected = cross_val_score(model, *products, cv=6)
    with parallel_config("threading", n_jobs=6):
        np.testing.assert_array_equal(cross_val_score(model, *products, cv=6), expected)


@pytest.mark.parametrize("column", ["text", ["text"]])
def test_beside_a_numeric_column(tiny, products, column):
    texts, y = products
    table = pd.DataFrame({"text": texts, "stars": np.arange(60.0)})
    step = ColumnTransformer([("words", FrozenFeatures(tiny), column), ("n", "passthrough", [1])])
    got = step.fit_transform(table)
    expected = FrozenFeatures(tiny).transform(texts)
    np.testing.assert_array_equal(got, np.column_stack([expected, table["stars"]]))
    names = list(step.get_feature_names_out())
    assert names[0] == "words__frozenfeatures0" and names[15:] == [
        "words__frozenfeatures15",
        "n__stars",
    ]
    assert make_pipeline(step, LogisticRegression()).fit(table, y).predict(table[:3]).shape == (3,)


def test_pandas_output(tiny, texts):
    column = pd.Series(texts, index=range(7, 67))
    step = FrozenFeatures(tiny).set_output(transform="pandas")
    table = clone(step).fit_transform(column)
    assert list(table.columns) == [f"frozenfeatures{i}" for i in range(16)]
    np.testing.assert_array_equal(table, FrozenFeatures(tiny).transform(texts))
    frame = column.to_frame("text")
    assert list(step.fit_transform(frame).index) == list(frame.index)


def test_column_names_are_remembered(tiny, texts):
    frame = pd.DataFrame({"text": texts})
    step = FrozenFeatures(tiny).fit(frame)
    assert list(step.feature_names_in_) == ["text"]
    with pytest.raises(ValueError, match="feature names"):
        step.transform(frame.rename(columns={"text": "title"}))
    assert step.transform(texts).shape == (60, 16)
    assert not hasattr(step.fit(texts), "feature_names_in_")


def test_unfitted_and_fitted_give_the_same(tiny, texts):
    step = FrozenFeatures(tiny)
    np.testing.assert_array_equal(step.transform(texts), step.fit(texts[:1]).transform(texts))
    assert len(FrozenFeatures(tiny).get_feature_names_out()) == 16


# Copies


def test_a_clone_shares_a_loaded_encoder(minilm):
    step = FrozenFeatures(minilm, batch_size=8)
    twin = clone(step)
    assert twin.encoder is minilm and twin.batch_size == 8 and twin is not step
    assert step.encoder is minilm


def test_a_pickle_carries_the_handle_and_no_weights(minilm, tiny, texts):
    for step in (FrozenFeatures("minilm-l6").fit(texts), FrozenFeatures(minilm).fit(texts)):
        stored = pickle.dumps(step)
        assert len(stored) < 2000
        opened = pickle.loads(stored)
        assert opened.encoder == "minilm-l6"
        np.testing.assert_array_equal(opened.transform(texts), step.transform(texts))
        assert copy.deepcopy(step).encoder == "minilm-l6"


def test_weights_that_the_handle_has_not_are_not_pickled(tiny):
    tuned = load(tiny)
    with torch.no_grad():
        next(tuned.model.parameters()).add_(1)
    with pytest.raises(ValueError, match="a pickle holds no weights"):
        pickle.dumps(FrozenFeatures(tuned))


def test_another_model_under_the_same_handle_is_noticed(tmp_path, minilm, texts):
    folder = tmp_path / "mine"
    save(folder, minilm, seed=1)
    step = FrozenFeatures(folder).fit(texts)
    before = step.transform(texts)
    stored = pickle.dumps(step)
    save(folder, minilm, seed=2)
    for again in (step, pickle.loads(stored)):
        with pytest.raises(ValueError, match="another model than the one of fit"):
            again.transform(texts)
    assert np.abs(step.fit_transform(texts) - before).max() > 0.1


def test_weights_changed_in_memory_are_noticed(tmp_path, minilm, texts):
    save(tmp_path / "mine", minilm, seed=1)
    step = FrozenFeatures(tmp_path / "mine").fit(texts)
    before = step.transform(texts)
    with torch.no_grad():
        step.encoder_.model.embeddings.word_embeddings.weight.mul_(-1)
    with pytest.raises(ValueError, match="another model than the one of fit"):
        step.transform(texts)
    assert np.abs(FrozenFeatures(tmp_path / "mine").transform(texts) - before).max() > 0.1


def test_weights_are_hashed_once(tiny, texts, monkeypatch):
    hashed, original = [], transformer._identity
    monkeypatch.setattr(transformer, "_identity", lambda e: hashed.append(e) or original(e))
    transformer._loaded.cache_clear()
    for _ in range(3):
        FrozenFeatures(tiny).fit(texts).transform(texts)
    assert len(hashed) == 1


# What is refused


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), "X has 2 columns"),
        (np.array([["x", "y"]]), "X has 2 columns"),
        ([1.5, 2.5], "row 0 is not a string but 1.5"),
        (np.arange(3), "row 0 is not a string but 0"),
        (pd.DataFrame({"a": [1, 2]}), "row 0 is not a string"),
        (pd.Series(["x", None]), "row 1 is missing"),
        (pd.Series(["x", None], dtype="string"), "row 1 is missing"),
        (pd.Series(["x", np.nan], dtype=object), "row 1 is missing"),
        ("one", "one string"),
        ({"text": ["x"]}, "a dictionary"),
        ((text for text in "ab"), "not generator"),
        ({"a", "b"}, "not set"),
        ([], "no texts"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"'minilm-l6' reads texts, not an array \(2, 8, 8, 3\)"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "transform"])
def test_wrong_inputs_give_one_sentence(X, message, method):
    with pytest.raises(ValueError, match=message) as error:
        getattr(FrozenFeatures("minilm-l6"), method)(X)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((2, 8, 8, 3)),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        ["a text"],
    ],
)
def test_wrong_images(X):
    with pytest.raises(ValueError, match="uint8 array"):
        FrozenFeatures("efficientnet-lite0").fit(X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": 3}, "encoder is a handle"),
        ({"encoder": load}, "encoder is a handle"),
        ({"batch_size": 0}, "batch_size=0 must be"),
        ({"pool": "max"}, "pool is 'mean' or 'cls'"),
        ({"revision": "main"}, "packaged and has one version"),
    ],
)
def test_wrong_parameters(texts, options, message):
    FrozenFeatures("minilm-l6").transform(texts[:2])  # a cached answer is no excuse
    with pytest.raises(ValueError, match=message):
        FrozenFeatures(**options).fit_transform(texts[:2])


def test_options_of_a_loaded_encoder(minilm, texts):
    with pytest.raises(ValueError, match="this encoder is loaded"):
        FrozenFeatures(minilm, pool="cls").transform(texts)


def test_a_model_in_training_mode_is_refused(tiny, texts):
    spoiled = load(tiny)
    spoiled.model.train()
    with pytest.raises(ValueError, match="training mode"):
        FrozenFeatures(spoiled).transform(texts)


# scikit-learn's own checks


def test_tags():
    tags = get_tags(FrozenFeatures())
    assert tags.input_tags.string and not tags.input_tags.two_d_array and not tags.requires_fit


class OfNumbers(FrozenFeatures):
    """Texts made of the tables of numbers that scikit-learn's checks feed to an estimator."""

    def fit(self, X, y=None):
        super().fit(self._written(X, reset=True))
        validate_data(self, X)
        return self

    def transform(self, X):
        return super().transform(self._written(X, reset=False))

    def _written(self, X, reset):
        return [str(row) for row in validate_data(self, X, reset=reset).tolist()]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


def test_scikit_learns_own_checks(tiny):
    results = check_estimator(OfNumbers(tiny), on_skip=None)
    assert sum(result["status"] == "passed" for result in results) > 40
