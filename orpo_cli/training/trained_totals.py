"""Trained totals: pairs, tokens and seconds of a run so far, which a checkpoint has so that a resumed run continues them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orpo_cli.json_files import is_number, read_json_object_or_empty

TOTALS_FILE = "trained_totals.json"  # in a checkpoint


@dataclass(frozen=True)
class TrainedTotals:
    """Totals of a run over all attempts and ranks, without the steps that a resumed run computes again.

    ``seconds`` of training, with evaluations and checkpoints; ``step_seconds`` inside steps.
    """

    pairs: int = 0
    tokens: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0

    @classmethod
    def of_checkpoint(cls, checkpoint: Path | None) -> TrainedTotals:
        """The totals in a checkpoint; zero without one, and in a checkpoint of a version that did not record them."""
        document = {} if checkpoint is None else read_json_object_or_empty(checkpoint / TOTALS_FILE)
        known: dict[str, Any] = {name: each for name, each in document.items() if name in asdict(cls())}
        return cls(**known) if all(map(is_number, known.values())) else cls()

    def at_least(self, seconds: float) -> TrainedTotals:
        """The totals with at least these seconds."""
        return replace(self, seconds=max(self.seconds, seconds))

    def to_document(self) -> dict[str, Any]:
        """The totals for a checkpoint."""
        return asdict(self)

    def rates(self) -> dict[str, float]:
        """Pairs and tokens a second inside steps; empty before the first step."""
        if not self.step_seconds:
            return {}
        return {
            "pairs_per_second": round(self.pairs / self.step_seconds, 3),
            "tokens_per_second": round(self.tokens / self.step_seconds, 1),
        }
