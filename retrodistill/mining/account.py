"""What became of every document that a source found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from retrodistill import console

OWN = "the query itself, or what it was made of"
MERGED = "found by several sources, merged"


@dataclass
class Account:
    """What became of every document that a source found: found + added = kept + dropped.

    Attributes:
        found: documents by source, before merging.
        added: labelled positives that no source found.
        dropped: documents by the reason they went.
        kept: rows handed on.
        refilled: negatives that took the place of some that a sampler could not find.
        barred: judgements that name the query itself, or what it was made of; nobody looks at them.
        unjudged: documents that a rule had no score for, by rule; what it did with them, the rule says.
        queries: queries asked for.
        short: by query, how many negatives fewer it has than the sampler was asked for.
        without: queries that no document is left for which is not relevant.
    """

    found: Counter[str] = field(default_factory=Counter)
    added: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    refilled: int = 0
    barred: int = 0
    unjudged: Counter[str] = field(default_factory=Counter)
    queries: int = 0
    short: dict[str, int] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Kept and dropped, by reason, for the person who waits."""
        rows = [[f"found by {source}", f"{count:,}"] for source, count in self.found.items()]
        if self.added:
            rows += [["added: labelled, found by none", f"{self.added:,}"]]
        rows += [[f"dropped: {reason}", f"{count:,}"] for reason, count in self.dropped.items()]
        rows += [["kept", f"{self.kept:,}"]]
        if self.refilled:
            rows += [["of these refilled from the next in rank", f"{self.refilled:,}"]]
        if self.barred:
            rows += [[f"judgements not looked at: {OWN}", f"{self.barred:,}"]]
        rows += [[f"without a score for {rule}", f"{count:,}"] for rule, count in self.unjudged.items() if count]
        if self.short:
            rows += [[f"queries short of negatives: {_some(list(self.short))}", f"{len(self.short):,}"]]
        if self.without:
            rows += [[f"queries without any negative: {_some(self.without)}", f"{len(self.without):,}"]]
        return console.markdown_table([f"{self.queries:,} queries", "documents"], rows)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "queries": self.queries,
            "found": dict(self.found),
            "added": self.added,
            "dropped": dict(self.dropped),
            "kept": self.kept,
            "refilled": self.refilled,
            "barred_judgements": self.barred,
            "unjudged": {rule: count for rule, count in self.unjudged.items() if count},
            "short_of_negatives": dict(self.short),
            "queries_without_negatives": list(self.without),
        }


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
