"""Plans come before results: small repositories, in order and out of it."""

import json
import subprocess

import pytest

from tools import plans

PLAN = {
    "claim": "C2",
    "setting": "films, 8 labels",
    "arm": "encoder",
    "control": "counts",
    "budgets": [8],
    "seeds": 20,
    "expected": "The encoder gains.",
}
OLD = ("C3", "older than the rule", plans.BEFORE)
NEW = ("C2", "films, 8 labels", True)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Commit a record and plans step by step, from a record that is older than the rule."""
    monkeypatch.chdir(tmp_path)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "A")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@example.org")
    git("init", "-q")
    commit(record=[OLD])
    plans.PLANS.mkdir(parents=True)
    (plans.PLANS / "example.toml").write_text("# how to\n")
    git("add", ".")
    git("commit", "-qm", "the rule")
    return tmp_path


def git(*arguments):
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def write(record=None, plan=None, chapter="films"):
    """Put a record or plans into the working tree."""
    if record is not None:
        plans.RECORD.parent.mkdir(parents=True, exist_ok=True)
        ledger = {}
        for claim, setting, flag in record:
            finding = {"setting": setting, "planned": flag}
            ledger.setdefault(claim, {"findings": []})["findings"].append(finding)
        plans.RECORD.write_text(json.dumps(ledger))
    if plan is not None:
        lines = [
            "[[finding]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in one.items())
            for one in plan
        ]
        (plans.PLANS / f"{chapter}.toml").write_text("\n".join(lines))


def commit(**content):
    write(**content)
    git("add", "-A")
    git("commit", "-qm", "step", "--allow-empty")


def test_a_plan_before_its_result_is_in_order(repository):
    commit(plan=[PLAN])
    write(record=[OLD, NEW])
    assert plans.check() == []  # before the result is committed
    commit()
    assert plans.check() == []


@pytest.mark.parametrize("together", [True, False])
def test_a_result_before_its_plan_is_seen(repository, together):
    if not together:
        commit(record=[OLD, NEW])
    commit(record=[OLD, NEW], plan=[PLAN])
    (problem,) = plans.check()
    assert "films, 8 labels: the plan, as it stands, is not older than the result" in problem
    commit(record=[OLD, (*NEW[:2], False)], plan=[PLAN | {"unplanned": "an oversight"}])
    assert plans.check() == []


@pytest.mark.parametrize(
    "change", [{"budgets": [8, 32]}, {"control": "a worse one"}, {"expected": "It loses."}]
)
def test_a_plan_that_was_changed_after_its_result_is_seen(repository, change):
    commit(plan=[PLAN])
    commit(plan=[PLAN | {"seeds": 40}])
    commit(record=[OLD, NEW])
    assert plans.check() == []  # changed before
    commit(plan=[PLAN | {"seeds": 40} | change])
    (problem,) = plans.check()
    assert "not older than the result" in problem


def test_what_was_added_after_the_result_may_be_said_and_changes_no_promise(repository):
    commit(plan=[PLAN])
    commit(record=[OLD, NEW])
    commit(plan=[PLAN | {"extended": "ten seeds for five, after the first result"}])
    assert plans.check() == []


def test_a_setting_that_was_renamed_after_its_result_is_seen(repository):
    commit(plan=[PLAN])
    commit(record=[OLD, NEW])
    commit(
        record=[OLD, ("C2", "films, 32 labels", True)],
        plan=[PLAN | {"setting": "films, 32 labels"}],
    )
    problems = "\n".join(plans.check())
    assert "films, 8 labels: a plan stays" in problems
    assert "films, 32 labels: the plan, as it stands, is not older" in problems


def test_what_was_not_run_is_listed(repository):
    commit(plan=[PLAN])
    (problem,) = plans.check()
    assert "neither on record nor listed as not_run" in problem
    commit(plan=[PLAN | {"not_run": "the data are gone"}])
    assert plans.check() == []
    commit(record=[OLD, NEW])
    assert "listed as not_run, but on record" in plans.check()[0]


def test_a_plan_is_not_removed(repository):
    commit(plan=[PLAN])
    commit(plan=[])
    assert "a plan stays" in plans.check()[0]


def test_a_new_finding_without_a_plan_is_seen(repository):
    new = ("C2", "tweets", plans.BEFORE)
    write(record=[OLD, new])
    assert "C2: tweets: on record without a plan" in plans.check()[0]
    commit()
    assert len(plans.check()) == 1


def test_work_beside_the_rule_is_before_it(repository):
    """A branch from before the rule, merged later."""
    git("checkout", "-q", "-b", "beside", "HEAD~1")
    beside = ("C2", "tweets", plans.BEFORE)
    commit(record=[OLD, beside])
    git("checkout", "-q", "-")
    git("merge", "-q", "beside")
    assert plans.check() == []


def test_a_plan_on_another_branch_is_no_ancestor(repository):
    git("checkout", "-q", "-b", "beside")
    commit(plan=[PLAN])
    git("checkout", "-q", "-")
    commit(record=[OLD, NEW])
    git("merge", "-q", "beside")
    assert "not older than the result" in plans.check()[0]


def test_the_record_says_what_was_planned(repository):
    commit(plan=[PLAN])
    commit(record=[OLD, (*NEW[:2], plans.BEFORE)])
    assert "planned is 'before the rule' on record, but should be True" in plans.check()[0]
    ledger = {"C2": {"findings": [{"setting": NEW[1]}, {"setting": "x"}]}}
    plans.mark(ledger)
    assert [f["planned"] for f in ledger["C2"]["findings"]] == [True, plans.BEFORE]
    write(plan=[PLAN | {"unplanned": "why"}])
    plans.mark(ledger)
    assert ledger["C2"]["findings"][0]["planned"] is False


def test_an_incomplete_plan_is_seen(repository):
    commit(plan=[{"claim": "C2", "setting": "x", "not_run": "never", "budget": 8}])
    (problem,) = plans.check()
    assert "lacks ['arm', 'control', 'budgets', 'seeds', 'expected'], and ['budget']" in problem


def test_without_history_the_order_is_not_checked(repository, tmp_path, monkeypatch, capsys):
    commit(record=[OLD, NEW], plan=[PLAN])
    assert plans.check()
    shallow = tmp_path / "shallow"
    git("clone", "-q", "--depth", "1", f"file://{repository}", str(shallow))
    monkeypatch.chdir(shallow)
    assert plans.check() == []
    assert "The history is not here" in capsys.readouterr().out
    subprocess.run(["rm", "-rf", ".git"], check=True)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert plans.check() == []
    assert "The history is not here" in capsys.readouterr().out
