"""Data sets, splits and label budgets."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tlbook import data, sources
from tlbook.sources import images

rng = np.random.default_rng(0)


def made(n: int = 300, per_group: int = 3) -> data.Dataset:
    """Texts in groups: 40 % of one class, 60 % of the other."""
    labels = np.where(np.arange(n) % 5 < 2, "a", "b")
    return data.labeled([f"text {i}" for i in range(n)], labels, np.arange(n) // per_group)


def test_split_covers_every_row_once():
    parts = data.split(made(), test=0.25, validation=0.25, seed=1)
    assert sorted(np.concatenate(parts)) == list(range(300))
    assert len(parts.test) == pytest.approx(75, abs=6)
    assert len(parts.validation) == pytest.approx(75, abs=6)


def test_split_keeps_groups_whole():
    made_data = made()
    parts = data.split(made_data, test=0.25, validation=0.25, seed=1)
    groups = [set(made_data.groups[part]) for part in parts]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


@pytest.mark.parametrize("per_group", [1, 3])
def test_split_is_stratified_and_seeded(per_group):
    made_data = made(per_group=per_group)
    first, again, other = (data.split(made_data, seed=seed).test for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert made_data.y[first].mean() == pytest.approx(0.6, abs=0.05)


def test_split_leaves_duplicates_out():
    texts = ["good", "Good ", "bad", "fine", "poor", "so so", "meh", "nice"]
    labels = [1, 1, 0, 1, 0, 0, 0, 1]
    plain = data.Dataset(
        "d", np.array(texts, object), np.array(labels), ("0", "1"), np.arange(len(texts))
    )
    rows = np.concatenate(data.split(plain, test=0.5))
    assert 1 not in rows  # the second "good"
    assert len(rows) == 7


def test_contradictory_copies_all_go():
    kept = data.labeled(["same", "same ", "other", "third"], ["x", "y", "x", "y"])
    assert list(kept.x) == ["other", "third"]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((0, 0), "test=0 must be a finite number, above 0, at most 0.5"),
        ((0.6, 0), "test=0.6 must be"),
        ((float("nan"), 0), "test=nan must be"),
        ((0.5, 0.5), "leave nothing to train on"),
        ((0.2, -0.1), "validation=-0.1 must be"),
    ],
)
def test_impossible_shares_are_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        data.split(made(), test=shares[0], validation=shares[1])


def test_a_class_smaller_than_the_budget_gives_all_it_has():
    made_data = made()
    few = np.concatenate([np.flatnonzero(made_data.y == 0)[:7], np.flatnonzero(made_data.y == 1)])
    with pytest.raises(ValueError, match="16 labels per class asked for"):
        data.sample(made_data, few, per_class=16, seed=3)
    drawn = data.sample(made_data, few, per_class=16, seed=3, fewer=True)
    assert np.bincount(made_data.y[drawn])[:2].tolist() == [7, 16]


@pytest.mark.parametrize("arguments", [{"per_class": -3}, {"per_class": 0}, {"per_class": 2.5}])
def test_a_budget_is_a_whole_number(arguments):
    with pytest.raises(ValueError, match=r"per_class=.* whole number, at least 1"):
        data.sample(made(), **arguments)


def test_rows_to_draw_from_are_positions():
    with pytest.raises(ValueError, match="rows holds the position -1"):
        data.sample(made(), np.array([0, -1]), per_class=1)


def test_what_is_left_out_is_said():
    texts = ["one", "two", "One ", "three", "four", "four"]
    kept = data.labeled(texts, ["a", "b", "a", "b", "a", "b"])
    assert kept.left_out == {"copies": 1, "examples with contradictory labels": 2}
    assert kept.extra["row"].tolist() == [0, 1, 3]
    assert "1 copies left out, 2 examples with contradictory labels left out" in repr(kept)
    assert "left out" not in repr(data.labeled(texts[:2], ["a", "b"]))


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA, pd.NaT])
@pytest.mark.parametrize("column", ["x", "labels", "groups"])
def test_missing_values_are_refused(column, missing):
    columns = {"x": ["one", "two", "three"], "labels": ["a", "b", "a"], "groups": [1, 2, 3]}
    columns[column] = [*columns[column][:2], missing]
    with pytest.raises(ValueError, match=rf"{column}: .*row 2.* leave"):
        data.labeled(**columns)


@pytest.mark.parametrize("text", [b"bytes", 3, 2.5, ["nested"]])
def test_texts_are_strings(text):
    with pytest.raises(ValueError, match="x: row 1 is not a string but"):
        data.labeled(["one", text], ["a", "b"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": ["a", "", "b"]}, "row 1 has an empty label"),
        ({"classes": ["a", "b", "a"]}, "name one twice"),
        ({"x": np.array([["one"], ["two"], ["three"]])}, r"texts are one column, not .*\(3, 1\)"),
        ({"groups": [(1, 2), (1, 3), (1, 2)]}, "one value for each example"),
    ],
)
def test_columns_without_sense_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        data.labeled(**{"x": ["one", "two", "three"], "labels": ["a", "b", "a"]} | changed)


def test_classes_may_be_numbers_as_the_labels_are():
    assert data.labeled(["one", "two"], [1, 0], classes=[1, 0]).classes == ("1", "0")


def test_too_few_groups_to_split_are_named():
    few = data.labeled([f"text {i}" for i in range(40)], [0, 1] * 20, [0, 1, 2, 2] * 10)
    with pytest.raises(ValueError, match="3 groups cannot be split into 4 parts"):
        data.split(few)


def test_joined_groups_stay_apart():
    first = data.labeled(["a", "b", "c"], ["x", "y", "x"], ["ann", "bob", "ann"], name="first")
    second = data.labeled(["d", "e"], ["x", "y"], ["ann", "cid"], name="second")
    both = data.concat("both", first, second)
    assert both.x.tolist() == ["a", "b", "c", "d", "e"] and both.classes == ("x", "y")
    assert both.groups[0] == both.groups[2]
    assert len(np.unique(both.groups)) == 4  # ann of the second is somebody else
    assert both.extra["part"].tolist() == [0, 0, 0, 1, 1]
    assert both.extra["row"].tolist() == [0, 1, 2, 0, 1]
    with pytest.raises(ValueError, match=r"second has the classes \('z', 'zz'\), not"):
        data.concat("both", first, replace(second, classes=("z", "zz")))
    with pytest.raises(ValueError, match="nothing to join"):
        data.concat("none")


def test_other_inputs_keep_the_rest():
    made_data = made()
    vectors = np.arange(len(made_data) * 2.0).reshape(-1, 2)
    other = made_data.with_x(vectors)
    assert other.x is vectors and other.y is made_data.y
    with pytest.raises(ValueError, match="examples, but"):
        made_data.with_x(vectors[:-1])


def test_budgets_are_nested_and_balanced():
    made_data = made()
    rows = data.split(made_data).train
    small, large = (data.sample(made_data, rows, per_class=k, seed=7) for k in (5, 10))
    assert set(small) < set(large) < set(rows)
    assert list(np.bincount(made_data.y[large])) == [10, 10]


def test_budgets_differ_by_seed():
    made_data = made()
    rows = np.arange(len(made_data))
    draws = [tuple(data.sample(made_data, rows, per_class=5, seed=seed)) for seed in range(5)]
    assert len(set(draws)) == 5


def test_a_budget_beyond_the_data_names_the_class():
    with pytest.raises(ValueError, match="class 'a' has 120 rows"):
        data.sample(made(), np.arange(300), per_class=121, seed=0)


def test_labeled_refuses_what_is_no_classification():
    with pytest.raises(ValueError, match="at least two classes"):
        data.labeled(["one", "two"], ["same", "same"])
    with pytest.raises(ValueError, match="not among the classes"):
        data.labeled(["one", "two"], ["a", "b"], classes=["a", "c"])
    with pytest.raises(ValueError, match="2 examples, but 3 labels"):
        data.labeled(["one", "two"], ["a", "b", "a"])


@pytest.mark.parametrize(("domain", "n"), [("amazon", 2985), ("tweets", 3432), ("nyt", 2970)])
def test_reviews_as_published(domain, n):
    """The published counts at a rating of at least 0.5, less the duplicates."""
    reviews = sources.reviews(domain)
    assert 0.97 * n < len(reviews) <= n
    assert np.all(np.abs(reviews.extra["rating"]) >= 0.5)
    assert np.array_equal(reviews.y == 1, reviews.extra["rating"] > 0)
    assert len(data.distinct(reviews)) == len(reviews)


def test_sentences_of_one_review_share_a_group():
    reviews = sources.reviews("amazon")
    assert len(np.unique(reviews.groups)) < len(reviews) / 5


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="amazon, movie, tweets, nyt"):
        sources.reviews("books")
    with pytest.raises(ValueError, match="twemoji, openmoji"):
        sources.emoji("noto")


def test_bbc_has_no_duplicate_on_both_sides():
    news = sources.bbc()
    assert news.classes == ("business", "entertainment", "politics", "sports", "tech")
    assert 2100 < len(news) < 2225  # 2,225 files hold about a hundred copies
    parts = data.split(news)
    assert not set(news.x[parts.train]) & set(news.x[parts.test])


def test_chinese_reviews_are_consistent():
    reviews = sources.chinese_reviews()
    assert len(set(reviews.x)) == len(reviews)
    assert 17_000 < len(reviews) < 17_500


def test_emoji_styles_match_row_by_row():
    one, other = sources.emoji("twemoji", size=24), sources.emoji("openmoji", size=24)
    assert list(one.extra["code"]) == list(other.extra["code"])
    assert one.x.shape == other.x.shape == (len(one), 24, 24, 3)
    assert len(one.classes) == 9
    assert not np.array_equal(one.x, other.x)
    assert np.all(one.x[one.extra["alpha"] == 0] == 255)  # transparent is white


def test_emoji_rows_do_not_depend_on_size():
    small, large = (sources.emoji("openmoji", size=size).extra["code"] for size in (24, 32))
    assert list(small) == list(large)


def test_variants_of_one_emoji_share_a_group():
    emoji = sources.emoji("twemoji", size=24)
    base = dict(zip(emoji.extra["code"], emoji.groups, strict=True))
    woman, person = "1F469-200D-1F393", "1F9D1-200D-1F393"  # students
    assert base[woman] == base[person]
    assert base["1F3C3-200D-2640-FE0F"] == base["1F3C3-200D-2642-FE0F"]  # running
    assert base["1F3C3-200D-2640-FE0F"] != base[woman]


def test_digits_are_images():
    digits = sources.digits()
    assert digits.x.shape[1:] == (8, 8, 3)
    assert digits.x.dtype == np.uint8
    assert digits.x.max() == 255


# --- without labels, and printed ----------------------------------------------------------------


@pytest.fixture(scope="module")
def pool() -> sources.Unlabeled:
    return sources.emoji_unlabeled("twemoji", size=24)


def test_unlabeled_emoji_hold_the_labeled_ones_and_skin_tones(pool):
    emoji = sources.emoji("twemoji", size=24)
    assert pool.x.shape == (len(pool.code), 24, 24, 3)
    assert pool.x.dtype == np.uint8
    assert 3900 < len(pool.code) <= 4009
    row = {code: index for index, code in enumerate(pool.code)}
    assert len(row) == len(pool.code)
    assert sum("1F3FD" in code.split("-") for code in pool.code) > 450
    for index in range(0, len(emoji), 50):
        here = row[emoji.extra["code"][index].replace("-FE0F", "")]
        assert np.array_equal(pool.x[here], emoji.x[index])


def test_variants_in_the_pool_have_the_groups_of_labeled_emoji(pool):
    emoji = sources.emoji("twemoji", size=24)
    group = dict(zip(pool.code, pool.groups, strict=True))
    for code, expected in zip(emoji.extra["code"], emoji.groups, strict=True):
        assert group[code.replace("-FE0F", "")] == expected
    labeled_groups = set(emoji.groups)
    for code, found in group.items():
        points = code.split("-")
        if len(points) > 1 and points[1].startswith("1F3F") and points[0] != "1F9D1":
            assert found in labeled_groups, code  # a skin tone of something that has a label
    assert group["1F44B-1F3FD"] == group["1F44B"]  # a hand waves
    assert group["1F469-1F3FF-200D-1F393"] == group["1F468-200D-1F393"]  # students
    assert group["1F469-1F3FB-200D-1F91D-200D-1F468-1F3FC"] == "1F46B"  # they hold hands
    assert group["1FAF1-1F3FB-200D-1FAF2-1F3FD"] == "1F91D"  # a handshake
    assert group["1F468-1F3FB-200D-1F430-200D-1F468-1F3FC"] == "1F46F"  # with bunny ears
    assert group["1F3FB"] != group["1F3FF"]  # swatches vary nothing


def test_nothing_like_the_test_set_is_left_to_pretrain_on(pool):
    emoji = sources.emoji("twemoji", size=24)
    for seed in range(3):
        test = data.split(emoji, seed=seed).test
        rows = sources.apart_from(pool, emoji.groups[test])
        assert 0.6 * len(pool.code) < len(rows) < 0.9 * len(pool.code)
        assert not set(pool.groups[rows]) & set(emoji.groups[test])
        # also by a look at the codes: one person of a test emoji, in any gender and skin
        shapes = {images._group(code.replace("-FE0F", "")) for code in emoji.extra["code"][test]}
        assert not shapes & {images._group(code) for code in pool.code[rows]}
        left = {image.tobytes() for image in pool.x[rows]}
        assert not any(emoji.x[row].tobytes() in left for row in test)


def test_nothing_like_what_the_pretraining_chapters_hold_out_is_pretrained_on():
    """Their own split: neither test nor validation, by groups and by pixels."""
    emoji, pool = sources.emoji("twemoji", size=32), sources.emoji_unlabeled("twemoji", size=32)
    parts = data.split(emoji, test=1 / 4, validation=1 / 6)
    held_out = np.concatenate([parts.test, parts.validation])
    rows = sources.apart_from(pool, emoji.groups[held_out])
    assert not set(pool.groups[rows]) & set(emoji.groups[held_out])
    images = {image.tobytes() for image in pool.x[rows]}
    assert not any(image.tobytes() in images for image in emoji.x[held_out])
    assert all(image.tobytes() in images for image in emoji.x[parts.train[:50]])  # can be found
    assert len(set(pool.groups[rows]) & set(emoji.groups[parts.train])) > 900


@pytest.mark.parametrize("style", ["twemoji", "openmoji"])
def test_every_labeled_image_is_in_the_pool_once_and_under_its_group(style):
    """So that whoever leaves out a group leaves out the image, whatever the split."""
    emoji, pool = sources.emoji(style, size=24), sources.emoji_unlabeled(style, size=24)
    group = {image.tobytes(): found for image, found in zip(pool.x, pool.groups, strict=True)}
    assert len(group) == len(pool.x)
    assert [group[image.tobytes()] for image in emoji.x] == list(emoji.groups)


def test_variants_that_two_emoji_share_are_left_out(pool):
    """Santa Claus and the man of Mx Claus are one in every skin tone, in two groups."""
    codes = set(pool.code)
    for skin in ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"):
        assert not {f"1F385-{skin}", f"1F468-{skin}-200D-1F384"} & codes
        assert not {f"1F936-{skin}", f"1F469-{skin}-200D-1F384"} & codes  # Mrs. Claus
        assert f"1F9D1-{skin}-200D-1F384" in codes  # Mx Claus looks like no other
    assert {"1F385", "1F936"} <= codes
    # Twemoji drew a woman of one skin tone with the blond hair of another emoji
    assert "1F469-1F3FC" not in codes
    assert "1F469-1F3FB" in codes


def test_couples_are_left_out_together(pool):
    rows = sources.apart_from(pool, np.array(["1F46B"]))
    assert not {"1F46B", "1F46C", "1F46D"} & set(pool.groups[rows])
    assert "1F44B" in pool.groups[rows]
    with pytest.raises(ValueError, match="twemoji, openmoji"):
        sources.emoji_unlabeled("noto")


@pytest.mark.parametrize("size", [8, 32])
def test_letters_are_printed_digits_in_many_fonts(size):
    printed = sources.letters(size=size, copies=3)
    assert printed.x.shape == (len(printed), size, size, 3)
    assert printed.x.dtype == np.uint8
    assert len(printed) == 22 * 10 * 3
    assert np.all(np.bincount(printed.y) == 66)
    assert printed.classes == sources.digits().classes
    assert len(set(printed.extra["font"])) == 22
    corners = printed.x[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.mean() < 40 < printed.x.mean()  # white on black


def test_letters_are_seeded_and_distorted():
    one, again, other = (sources.letters(copies=2, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.x, again.x)
    assert not np.array_equal(one.x, other.x)
    assert len({image.tobytes() for image in one.x}) == len(one)
    assert sources.letters("AB", copies=2).classes == ("A", "B")


def test_letters_are_turned_or_sheared():
    """The long axis of an upright l leans to both sides."""
    bars = sources.letters("lI", size=32, copies=20)
    upright = (bars.extra["font"] == "DejaVuSans.ttf") & (bars.y == 0)
    leans = []
    for image in bars.x[upright, ..., 0].astype(float):
        y, x = np.mgrid[:32, :32]
        mean_x, mean_y = (np.average(part, weights=image) for part in (x, y))
        across = np.average((x - mean_x) * (y - mean_y), weights=image)
        leans.append(across / np.average((y - mean_y) ** 2, weights=image))
    assert min(leans) < -0.1
    assert max(leans) > 0.1


def test_a_font_never_stands_on_both_sides_of_a_split():
    printed = sources.letters(copies=3)
    fonts = printed.extra["font"]
    for seed in range(3):
        parts = data.split(printed, test=0.25, validation=0.25, seed=seed)
        assert not set(fonts[parts.train]) & set(fonts[parts.test])
        assert not set(fonts[parts.train]) & set(fonts[parts.validation])
        assert len(set(printed.y[parts.test])) == 10
    # cuts of one family differ by little more than a distortion
    group = dict(zip(fonts, printed.groups, strict=True))
    assert group["DejaVuSans.ttf"] == group["DejaVuSans-Oblique.ttf"] != group["DejaVuSerif.ttf"]


def test_printed_digits_teach_something_about_handwritten_ones():
    """Each character fills the image as handwriting does: a linear model carries over."""
    from sklearn.linear_model import RidgeClassifier

    printed, written = sources.letters(copies=5), sources.digits()
    x, y = (part.x[..., 0].reshape(len(part), -1) / 255 for part in (printed, written))
    assert RidgeClassifier().fit(x, printed.y).score(y, written.y) > 0.45


def test_letters_no_font_has_are_refused():
    for characters in ("00", "é", "一"):
        with pytest.raises(ValueError, match="digits and Latin letters only"):
            sources.letters(characters)
    with pytest.raises(ValueError, match="copies=0"):
        sources.letters(copies=0)
