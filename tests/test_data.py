"""Data sets, splits and label budgets."""

import numpy as np
import pytest

from tlbook import data

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


@pytest.mark.parametrize("shares", [(0, 0), (0.6, 0), (0.5, 0.5), (0.2, -0.1)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ValueError, match="leave something to train on"):
        data.split(made(), test=shares[0], validation=shares[1])


def test_budgets_are_nested_and_balanced():
    made_data = made()
    rows = data.split(made_data).train
    small, large = (data.limit(made_data, rows, per_class=k, seed=7) for k in (5, 10))
    assert set(small) < set(large) < set(rows)
    assert list(np.bincount(made_data.y[large])) == [10, 10]


def test_budgets_differ_by_seed():
    made_data = made()
    rows = np.arange(len(made_data))
    draws = [tuple(data.limit(made_data, rows, per_class=5, seed=seed)) for seed in range(5)]
    assert len(set(draws)) == 5


def test_a_budget_beyond_the_data_names_the_class():
    with pytest.raises(ValueError, match="class 'a' has 120 rows"):
        data.limit(made(), np.arange(300), per_class=121, seed=0)


def test_labeled_refuses_what_is_no_classification():
    with pytest.raises(ValueError, match="at least two classes"):
        data.labeled(["one", "two"], ["same", "same"])
    with pytest.raises(ValueError, match="not among the classes"):
        data.labeled(["one", "two"], ["a", "b"], classes=["a", "c"])
    with pytest.raises(ValueError, match="2 examples, but 3 rows of y"):
        data.labeled(["one", "two"], ["a", "b", "a"])


@pytest.mark.parametrize(("domain", "n"), [("amazon", 2985), ("tweets", 3432), ("nyt", 2970)])
def test_reviews_as_published(domain, n):
    """The published counts at a rating of at least 0.5, less the duplicates."""
    reviews = data.reviews(domain)
    assert 0.97 * n < len(reviews) <= n
    assert np.all(np.abs(reviews.extra["rating"]) >= 0.5)
    assert np.array_equal(reviews.y == 1, reviews.extra["rating"] > 0)
    assert len(data.distinct(reviews)) == len(reviews)


def test_sentences_of_one_review_share_a_group():
    reviews = data.reviews("amazon")
    assert len(np.unique(reviews.groups)) < len(reviews) / 5


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="amazon, movie, tweets, nyt"):
        data.reviews("books")
    with pytest.raises(ValueError, match="twemoji, openmoji"):
        data.emoji("noto")


def test_bbc_has_no_duplicate_on_both_sides():
    news = data.bbc()
    assert news.classes == ("business", "entertainment", "politics", "sports", "tech")
    assert 2100 < len(news) < 2225  # 2,225 files hold about a hundred copies
    parts = data.split(news)
    assert not set(news.x[parts.train]) & set(news.x[parts.test])


def test_newsgroups_as_published():
    """18,821 messages, of which 7,528 are for testing, less the duplicates; letters and spaces."""
    news = data.newsgroups()
    assert len(news.classes) == 20
    assert 18_700 < len(news) < 18_821
    assert 7_490 < news.extra["test"].sum() < 7_528
    assert set("".join(news.x)) == set("abcdefghijklmnopqrstuvwxyz ")
    assert len(data.distinct(news)) == len(news)
    space = news.x[news.y == news.classes.index("sci.space")]
    assert np.mean(["orbit" in text for text in space]) > 0.1  # labels stand beside their texts
    assert np.mean(["orbit" in text for text in news.x]) < 0.05


def test_chinese_reviews_are_consistent():
    reviews = data.chinese_reviews()
    assert len(set(reviews.x)) == len(reviews)
    assert 17_000 < len(reviews) < 17_500


def test_emoji_styles_match_row_by_row():
    one, other = data.emoji("twemoji", size=24), data.emoji("openmoji", size=24)
    assert list(one.extra["code"]) == list(other.extra["code"])
    assert one.x.shape == other.x.shape == (len(one), 24, 24, 3)
    assert len(one.classes) == 9
    assert not np.array_equal(one.x, other.x)
    assert np.all(one.x[one.extra["alpha"] == 0] == 255)  # transparent is white


def test_emoji_rows_do_not_depend_on_size():
    small, large = (data.emoji("openmoji", size=size).extra["code"] for size in (24, 32))
    assert list(small) == list(large)


def test_variants_of_one_emoji_share_a_group():
    emoji = data.emoji("twemoji", size=24)
    base = dict(zip(emoji.extra["code"], emoji.groups, strict=True))
    woman, person = "1F469-200D-1F393", "1F9D1-200D-1F393"  # students
    assert base[woman] == base[person]
    assert base["1F3C3-200D-2640-FE0F"] == base["1F3C3-200D-2642-FE0F"]  # running
    assert base["1F3C3-200D-2640-FE0F"] != base[woman]


def test_digits_are_images():
    digits = data.digits()
    assert digits.x.shape[1:] == (8, 8, 3)
    assert digits.x.dtype == np.uint8
    assert digits.x.max() == 255
