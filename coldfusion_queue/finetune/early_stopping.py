"""When a training is to end early: its score on the development split has stopped rising."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["EarlyStopping"]


@dataclass
class EarlyStopping:
    """Scores so far, and what they say.

    The rule is the paper's: stop when the best score gained less than ``min_gain`` while the last
    ``patience_examples`` examples were trained on. The paper does not say which parameters are
    contributed then; here it is the last ones (decision 0013).

    Source: Don-Yehiya et al. 2023, appendix B.
    """

    min_gain: float
    patience_examples: int | None
    """None never stops."""
    every_examples: int
    """Examples from one validation to the next."""
    scores: list[tuple[int, float]] = field(default_factory=list)
    """Examples trained on, and the score then, in order."""

    def can_matter(self, total_examples: int) -> bool:
        """Whether a training of so many examples is long enough that it might be stopped.

        Otherwise it needs no validation but the one at its end.
        """
        patience = self.patience_examples
        return patience is not None and total_examples > patience + self.every_examples

    def is_due(self, examples_before: int, examples_after: int) -> bool:
        """Whether a step that brought so many examples ends an interval."""
        return examples_before // self.every_examples != examples_after // self.every_examples

    def should_stop(self) -> bool:
        """Whether the newest score says that going on does not pay."""
        if self.patience_examples is None or not self.scores:
            return False
        horizon = self.scores[-1][0] - self.patience_examples
        before = [score for examples, score in self.scores if examples <= horizon]
        if not before:
            return False
        return max(score for _, score in self.scores) - max(before) < self.min_gain
