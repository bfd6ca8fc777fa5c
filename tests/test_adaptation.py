"""The comparison of methods of domain adaptation, on domains small enough to know the answer."""

import matplotlib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from threadpoolctl import threadpool_limits

from tlbook import data
from tlbook.evidence.effects import Effect
from tlbook.methods import adaptation
from tlbook.methods.adaptation import ORACLE, SOURCE_ONLY, draw, run_grid, two_domains
from tlbook.methods.selection import importance_weighted_risk

matplotlib.use("agg")
MOVED = np.array([3.0, 0.0, 0.0])
CRITERIA = {
    "weighted": lambda seen: importance_weighted_risk(seen.wrong, seen.input_ratios),
    "last": lambda seen: -seen.weight,
}


def domain(name: str, rng, n: int = 240, moved=0.0):
    """Three rows to a group; the first column tells the class, the target is moved along it."""
    y = np.arange(n) % 2
    x = rng.normal(size=(n, 3)) + np.outer(2 * y - 1, [1.5, 0, 0]) + moved
    return data.labeled([f"{name} {i}" for i in range(n)], y, np.arange(n) // 6, name=name), x


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small spend more on waking threads than on their own arithmetic."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def domains():
    rng = np.random.default_rng(0)
    source, target = domain("source", rng), domain("target", rng, moved=MOVED)
    return two_domains(*source, *target, n=60, components=3)


def supervised(columns, classes, seed):
    return LogisticRegression().fit(columns["x"], columns["labels"])


def outputs(model, x):
    return model.predict_proba(x), x


def by_means(weight, source, target, classes, seed):
    """Moves the source's mean by a share of the way to the target's."""
    shift = weight * (target["x"].mean(0) - source["x"].mean(0))
    moved = source | {"x": source["x"] + shift}
    return supervised(moved, classes, seed), lambda x: x + shift


def grid_of(domains, methods=None, **options):
    methods = methods or {"means": (by_means, (0.5, 1.0))}
    options = {"criteria": CRITERIA, "seeds": range(3)} | options
    return run_grid(domains, methods, supervised=supervised, outputs=outputs, **options)


@pytest.fixture(scope="module")
def grid(domains):
    return grid_of(domains)


def test_parts_share_no_row_and_groups_stay_whole():
    """Each row is marked by its place in a column that the components keep apart."""
    rng = np.random.default_rng(1)
    source, x = domain("source", rng)
    target, z = domain("target", rng)
    x, z = (np.c_[part, 100.0 * np.arange(240)] for part in (x, z))
    parts = two_domains(source, x, target, z, n=50, components=4)
    place = {}
    for name in ("source", "held_out", "target", "validation", "test"):
        columns = getattr(parts, name)
        axis = np.argmax(np.ptp(columns["x"], axis=0))
        place[name] = columns["x"][:, axis]
        assert len(columns["labels"]) == len(place[name])
    for one, other in (("source", "held_out"), ("target", "validation"), ("target", "test")):
        assert not set(place[one].round(3)) & set(place[other].round(3))
    assert len(place["source"]) + len(place["held_out"]) == 240
    assert sum(len(place[name]) for name in ("target", "validation", "test")) == 240
    # six rows to a group, all on one side
    assert (np.unique(parts.groups, return_counts=True)[1] == 6).all()


def test_rows_that_are_given_are_kept_to():
    rng = np.random.default_rng(1)
    (source, x), (target, z) = domain("source", rng), domain("target", rng)
    rows = np.arange(90), np.arange(90, 150), np.arange(150, 240)
    parts = two_domains(source, x, target, z, rows=rows, components=3)
    assert len(parts.source["x"]) + len(parts.held_out["x"]) == 90
    assert len(parts.target["x"]) + len(parts.validation["x"]) == 60
    np.testing.assert_array_equal(parts.groups, target.groups[150:])
    np.testing.assert_array_equal(parts.test["labels"], target.y[150:])


def test_components_and_scale_are_the_source_s(domains):
    assert domains.source["x"].std() == pytest.approx(1, rel=0.01)
    assert domains.source["x"].mean() == pytest.approx(0, abs=1e-6)
    assert np.abs(domains.test["x"].mean(0)).max() > 1  # the distance stays


def test_domains_that_do_not_fit_are_refused():
    rng = np.random.default_rng(1)
    (source, x), (target, z) = domain("source", rng), domain("target", rng)
    with pytest.raises(ValueError, match="domains share their classes"):
        two_domains(source, x, data.labeled(target.x, ["no", "yes"] * 120), z)
    with pytest.raises(ValueError, match="target: 240 examples, but 239 rows of features"):
        two_domains(source, x, target, z[1:])


def test_a_seed_draws_its_own_rows_without_replacement(domains):
    first, again, other = map(domains.drawn, (0, 0, 1))
    for part in (0, 1):  # the source's rows, and the target's
        np.testing.assert_array_equal(first[part]["x"], again[part]["x"])
        assert (first[part]["x"] != other[part]["x"]).any()
        assert len(np.unique(first[part]["x"], axis=0)) == 60 == len(first[part]["labels"])
    few = {"x": np.arange(5), "labels": np.arange(5)}
    drawn = draw(few, 9, 0)
    assert sorted(drawn["x"]) == list(range(5)) and (drawn["x"] == drawn["labels"]).all()


def test_a_few_labels_are_as_many_of_each_class_and_other_ones_for_another_seed(domains):
    few, again, other = domains.few(0, 4), domains.few(0, 4), domains.few(1, 4)
    assert few["labels"].tolist() == [0] * 4 + [1] * 4
    np.testing.assert_array_equal(few["x"], again["x"])
    assert (few["x"] != other["x"]).any() and len(np.unique(few["x"], axis=0)) == 8
    rows = {tuple(x): y for x, y in zip(*domains.target.values(), strict=True)}
    assert [rows[tuple(x)] for x in few["x"]] == few["labels"].tolist()
    assert len(domains.few(0, 1000)["x"]) == len(domains.target["x"])


def test_adaptation_wins_back_what_the_shift_cost(grid):
    gap = grid.difference(grid.ceiling, grid.source_only)
    gain = grid.difference(grid.candidates["means", 1.0].predicted, grid.source_only)
    assert gap.low > 0.2 and gain.low > 0.2 and gap.seeds == 3


def test_weight_zero_is_the_source_alone_on_the_rows_of_the_seed(domains, grid):
    for seed, predicted in enumerate(grid.source_only):
        model = supervised(domains.drawn(seed)[0], 2, seed)
        np.testing.assert_array_equal(predicted, model.predict(domains.test["x"]))
        ceiling = supervised(domains.drawn(seed)[1], 2, seed)
        np.testing.assert_array_equal(grid.ceiling[seed], ceiling.predict(domains.test["x"]))
    assert list(grid.candidates) == [SOURCE_ONLY, ("means", 0.5), ("means", 1.0)]


def test_a_run_sees_neither_test_rows_nor_a_label_of_the_target(domains):
    given = []

    def spy(weight, source, target, classes, seed):
        given.append((source, target))
        return by_means(weight, source, target, classes, seed)

    judged = []
    grid_of(
        domains,
        {"spy": (spy, (1.0,))},
        criteria={"spy": lambda seen: judged.append(seen) or 0.0},
    )
    hidden = {tuple(row) for part in (domains.test, domains.validation) for row in part["x"]}
    for source, target in given:
        assert list(target) == ["x"] and set(source) == {"x", "labels"}
        assert not hidden & {tuple(row) for row in np.concatenate([source["x"], target["x"]])}
    n = len(domains.held_out["x"])
    for seen in judged:  # held-out rows of the source, and the unlabeled rows of this seed
        assert seen.wrong.shape == seen.input_ratios.shape == seen.feature_ratios.shape == (n,)
        assert seen.probabilities.shape == (60, 2)


def test_held_out_rows_are_judged_where_the_model_expects_them(domains):
    """Moved along with the source they are classified well, at their old place half are not."""
    wrong = {}
    criteria = {"error": lambda seen: wrong.setdefault(seen.weight, seen.wrong).mean()}
    grid_of(domains, criteria=criteria)
    assert wrong[1.0].mean() < 0.15


@pytest.mark.parametrize("part", ["target", "test"])
def test_labels_of_the_target_change_no_choice(domains, grid, part):
    """Not those of its unlabeled rows, and not those of the test."""
    columns = getattr(domains, part)
    spoiled = domains._replace(**{part: columns | {"labels": 1 - columns["labels"]}})
    for by in ("weighted", "last", ORACLE):
        assert grid_of(spoiled).chosen(by) == grid.chosen(by)


def test_the_oracle_chooses_by_validation_rows_and_criteria_do_not(domains, grid):
    assert grid.chosen(ORACLE) == [("means", 1.0)] * 3
    validation = domains.validation
    spoiled = grid_of(
        domains._replace(validation=validation | {"labels": 1 - validation["labels"]})
    )
    assert spoiled.chosen(ORACLE) == [SOURCE_ONLY] * 3
    for by in ("weighted", "last"):
        assert spoiled.chosen(by) == grid.chosen(by)
    expected = [
        -balanced_accuracy_score(
            validation["labels"],
            supervised(domains.drawn(seed)[0], 2, seed).predict(validation["x"]),
        )
        for seed in range(3)
    ]
    assert grid.candidates[SOURCE_ONLY].risks[ORACLE].tolist() == expected


def test_a_method_s_choice_is_among_its_own_weights_and_zero(domains):
    """Seeds disagree: each takes the run of its own choice."""
    wanted = [("a", 1.0), SOURCE_ONLY, ("b", 2.0)]

    def criterion(seen):
        return CHOSEN.pop(0)

    # by seed: source only, a, b
    CHOSEN = [2, 1, 3, 0, 1, 2, 3, 2, 1]
    methods = {"a": (by_means, (1.0,)), "b": (by_means, (2.0,))}
    grid = grid_of(domains, methods, criteria={"listed": criterion})
    assert grid.chosen("listed") == wanted
    expected = [grid.candidates[key].predicted[seed] for seed, key in enumerate(wanted)]
    np.testing.assert_array_equal(grid.predictions("listed"), expected)
    assert grid.chosen("listed", "a") == [("a", 1.0), SOURCE_ONLY, ("a", 1.0)]
    assert grid.chosen("listed", "b") == [SOURCE_ONLY, SOURCE_ONLY, ("b", 2.0)]


def test_the_grid_is_the_same_again(domains, grid):
    again = grid_of(domains)
    for key, candidate in grid.candidates.items():
        np.testing.assert_array_equal(candidate.predicted, again.candidates[key].predicted)
        for by, risks in candidate.risks.items():
            np.testing.assert_array_equal(risks, again.candidates[key].risks[by])


def test_names_that_are_not_there_are_refused(grid):
    with pytest.raises(ValueError, match="by='entropy': choose one of weighted, last, oracle"):
        grid.chosen("entropy")
    with pytest.raises(ValueError, match="method='CORAL': choose one of source only, means"):
        grid.predictions("last", "CORAL")


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        ({"means": (by_means, (0.0,))}, {}, "a weight of means=0.0 must be a finite number"),
        ({"means": (by_means, (1, 1.0))}, {}, "'means' with the weight 1 is there already"),
        ({"source only": (by_means, (1,))}, {}, "'source only' with the weight 1 is there already"),
        (None, {"criteria": {"oracle": len}}, "the choice with labels"),
        (None, {"seeds": [0]}, "at least 2 are needed"),
    ],
)
def test_grids_that_cannot_be_run_are_refused(domains, methods, options, message):
    with pytest.raises(ValueError, match=message):
        grid_of(domains, methods, **options)


def test_ratios_say_where_the_target_is_and_have_a_limit():
    rng = np.random.default_rng(0)
    source = np.concatenate([rng.normal(-3, 1, (200, 2)), rng.normal(3, 1, (4, 2))])
    found = adaptation._ratios(source, rng.normal(3, 1, (200, 2)))
    assert found[200:].min() > 2.5 > 0.1 > found[:200].mean() and found.max() <= 20


def test_tables_hold_each_method_s_gain_and_what_a_criterion_costs(grid):
    assert grid.methods == ["means"]
    table = adaptation.gains({"pair": grid}, ["weighted", ORACLE])
    assert table["method"].tolist() == ["means", "means", "labels of the target"]
    assert table["chosen by"].tolist() == ["weighted", ORACLE, "none"]
    expected = grid.difference(grid.predictions(ORACLE, "means"), grid.source_only)
    assert table.loc[1, ["gain", "low", "high"]].tolist() == [
        expected.value,
        expected.low,
        expected.high,
    ]
    lost = adaptation.costs({"pair": grid}, ["weighted", "last"])
    assert lost["criterion"].tolist() == ["weighted", "last"]
    assert lost["gap"].tolist() == pytest.approx(
        [expected.value - table["gain"][0], 0]  # the oracle takes the largest weight, too
    )


def test_gains_are_drawn_with_their_rival_and_ceiling(grid):
    table = adaptation.gains({"pair": grid}, ["weighted", ORACLE])
    rival, ceiling = {"pair": Effect(0.1, 0.05, 0.2, 3)}, {"pair": Effect(0.3, 0.2, 0.4, 3)}
    fig = adaptation.draw_gains(
        table, {"weighted": "λ by risk", ORACLE: "oracle"}, ceiling, rival, "labels"
    )
    (ax,) = fig.axes
    points = [(line.get_xdata().item(0), line.get_ydata().item(0)) for line in ax.lines[:3]]
    assert np.ravel(points) == pytest.approx(
        [100 * table["gain"][0], 0, 100 * table["gain"][1], 0.3, 10, 1]
    )
    assert list(ax.lines[3].get_xdata()) == [30, 30]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["means", "labels"]
    shown = [text.get_text() for text in fig.legends[0].get_texts()]
    assert shown == ["λ by risk", "oracle", "all labels of the target"]


def test_domains_are_drawn_by_class():
    ax = matplotlib.figure.Figure().subplots()
    source, target = np.arange(6.0).reshape(3, 2), np.arange(4.0).reshape(2, 2)
    adaptation.draw_domains(ax, source, np.array([0, 1, 1]), target, np.array([1, 1]))
    found = {part.get_label(): part.get_offsets().tolist() for part in ax.collections}
    assert found == {
        "source, 0": source[:1].tolist(),
        "source, 1": source[1:].tolist(),
        "target, 1": target.tolist(),
    }
    colors = [part.get_facecolor()[0].tolist() for part in ax.collections]
    assert colors[1] == colors[2] != colors[0]  # a color is a class, of both domains


def test_two_made_up_classes_lie_side_by_side_in_their_share():
    x, y = adaptation.two_classes(2000, 0.9, np.random.default_rng(0))
    assert y.mean() == pytest.approx(0.9, abs=0.03)
    for label, center in ((0, -1.4), (1, 1.4)):
        assert x[y == label].mean(0) == pytest.approx([center, 0], abs=0.2)
        assert x[y == label].std(0) == pytest.approx([0.5, 1], rel=0.15)
