"""Weighted means of metrics over batches: of each metric the sum of its values times their weights, and of the weights."""

from __future__ import annotations

from collections.abc import Iterable


class WeightedMeans:
    """Means over the pairs (or tokens) of batches of different sizes, on several ranks."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, float]] = {}

    def add(self, name: str, value: float, weight: float) -> None:
        """Add the mean of a batch; ``weight`` counts the pairs or tokens of which it is the mean."""
        total, weights = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = total + value * weight, weights + weight

    @classmethod
    def merged(cls, parts: Iterable[WeightedMeans]) -> WeightedMeans:
        """The means over the batches of all parts."""
        result = cls()
        for part in parts:
            for name, (total, weights) in part.sums.items():
                before, weights_before = result.sums.get(name, (0.0, 0.0))
                result.sums[name] = before + total, weights_before + weights
        return result

    def means(self) -> dict[str, float]:
        """Mean of each metric."""
        return {name: total / max(1.0, weights) for name, (total, weights) in self.sums.items()}
