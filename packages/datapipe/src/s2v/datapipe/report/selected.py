"""Figures of a selection: what each step left of the candidates, verdicts, kinds of samples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Final

from s2v.datapipe.pair.evidence import (
    ANSWERS,
    CONTEXT_RULES,
    IDENTITY_RULES,
    UNANSWERED_RULES,
    VERIFIER_RULES,
)
from s2v.datapipe.pair.rows import Row
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.roles import CLASSES

#: Steps of the judging in the order of ``RULES``, and the rules that each consists of.
STEPS: Final[dict[str, tuple[str, ...]]] = {
    "another context, by rules": CONTEXT_RULES,
    "the same subject, by rules": IDENTITY_RULES,
    "answered by the verifier": UNANSWERED_RULES,
    "the same subject, says the verifier": VERIFIER_RULES[:1],
    "another scene, says the verifier": VERIFIER_RULES[1:],
    "not excluded": ("excluded",),
}
SAID: Final = ("yes", "no", "unsure")
PAIR_TYPES: Final = {"cross": "cross-paired", "in": "in-paired", "image": "image"}


def pair_steps(pairs: Iterable[Row]) -> list[dict[str, Any]]:
    """How many candidates are left after each step.

    A candidate states every rule that it fails; here it goes at the first step that holds one.

    Args:
        pairs: rows of table PAIRS.

    Returns:
        ``{step, left, lost, by_bank, reasons}`` per step, first that of all candidates. ``reasons``
        counts every rule of the step among the lost, so it may add up to more. Steps of the
        verifier are there only where it was asked, or should have been, that of the exclusion list
        only where it names any.
    """
    left = list(pairs)
    verifier = {*VERIFIER_RULES, *UNANSWERED_RULES}
    asked = any(row[name] for row in left for name in ANSWERS) or any(
        verifier & set(row["rules"]) for row in left
    )
    found = [_step("candidates looked at", left, [], ())]
    for name, rules in STEPS.items():
        if verifier & set(rules) and not asked:
            continue
        among = set(rules)
        lost = [row for row in left if among & set(row["rules"])]
        if name == "not excluded" and not lost:
            continue
        left = [row for row in left if not among & set(row["rules"])]
        found.append(_step(name, left, lost, rules))
    return found


def _step(name: str, left: list[Row], lost: list[Row], rules: Iterable[str]) -> dict[str, Any]:
    among = set(rules)
    reasons = Counter(rule for row in lost for rule in row["rules"] if rule in among)
    return {
        "step": name,
        "left": len(left),
        "lost": len(lost),
        "by_bank": dict(sorted(Counter(row["bank"] for row in left).items())),
        "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
    }


def verdict_counts(run: RunFolder) -> dict[str, dict[str, Any]]:
    """What the verifier said, by class of the question; empty where none was asked.

    Returns:
        Per class: ``asked``, ``passed`` (two times yes), ``no_answer``, per question the counts of
        :data:`SAID`, ``repeated`` (questions whose answer was at first wrong), ``verifiers``,
        ``prompts``.
    """
    found: dict[str, dict[str, Any]] = {}
    rows = run.rows("verdicts")
    for name in sorted({row["class"] for row in rows}):
        mine = [row for row in rows if row["class"] == name]
        answered = [row for row in mine if row["reason"] is None]
        found[name] = {
            "asked": len(mine),
            "passed": sum(all(row[one] == "yes" for one in ANSWERS) for row in answered),
            "no_answer": len(mine) - len(answered),
            **{one: {said: sum(r[one] == said for r in answered) for said in SAID}
               for one in ANSWERS},
            "repeated": sum((row["attempts"] or 1) > 1 for row in answered),
            "verifiers": sorted({row["verifier"] for row in mine}),
            "prompts": sorted({row["prompt"] for row in mine}),
        }  # fmt: skip
    return found


def kinds_of_samples(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Per scenario, the most frequent first: ``{made, kept, types, classes}``.

    ``made`` counts also the samples that quotas or reviewers left out; ``types`` the kept of each
    pair type; ``classes`` the kept that show each class, so it adds up to more.
    """
    made: Counter[str] = Counter()
    types: dict[str, Counter[str]] = defaultdict(Counter)
    classes: dict[str, Counter[str]] = defaultdict(Counter)
    for row in run.tables["sample_reasons"].to_pylist():
        name = row["scenario"]
        made[name] += 1
        if row["reason"] is None:
            types[name][row["pair_type"]] += 1
            classes[name].update(row["classes"] or ())
    return {
        name: {
            "made": made[name],
            "kept": types[name].total(),
            "types": {key: types[name][key] for key in PAIR_TYPES if types[name][key]},
            "classes": {key: classes[name][key] for key in CLASSES if classes[name][key]},
        }
        for name in sorted(made, key=lambda name: (-types[name].total(), -made[name], name))
    }
