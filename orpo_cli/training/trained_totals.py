"""Trained totals: pairs, tokens and seconds of a run so far, which a checkpoint has so that a resumed run continues them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orpo_cli.checkpoint_manifest import checkpoint_step
from orpo_cli.json_files import is_number, read_json_object_or_empty

TOTALS_FILE = "trained_totals.json"  # in a checkpoint


@dataclass(frozen=True)
class TrainedTotals:
    """Totals of a run over all attempts and ranks, without the steps that a resumed run computes again.

    ``seconds`` of training, with evaluations and checkpoints; ``step_seconds`` inside steps. Not ``complete``: the run was begun
    by a version that did not count; pairs follow from the steps, and the rest is of the attempts since then.
    """

    pairs: int = 0
    tokens: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    complete: bool = True

    @classmethod
    def of_checkpoint(cls, checkpoint: Path | None, pairs_per_step: int) -> TrainedTotals:
        """The totals in a checkpoint; zero without one."""
        if checkpoint is None:
            return cls()
        document = read_json_object_or_empty(checkpoint / TOTALS_FILE)
        numbers: dict[str, Any] = {name: document.get(name) for name in ("pairs", "tokens", "seconds", "step_seconds")}
        if all(map(is_number, numbers.values())):
            return cls(**numbers, complete=document.get("complete") is not False)
        return cls(pairs=(checkpoint_step(checkpoint) or 0) * pairs_per_step, complete=False)

    def at_least(self, seconds: float) -> TrainedTotals:
        """The totals with at least these seconds."""
        return replace(self, seconds=max(self.seconds, seconds))

    def to_document(self) -> dict[str, Any]:
        """The totals for a checkpoint."""
        return asdict(self)

    def rates(self) -> dict[str, float]:
        """Pairs and tokens a second inside steps; empty before the first step, and where they were not counted."""
        if not self.step_seconds or not self.complete:
            return {}
        return {
            "pairs_per_second": round(self.pairs / self.step_seconds, 3),
            "tokens_per_second": round(self.tokens / self.step_seconds, 1),
        }
