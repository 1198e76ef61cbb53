"""ColD Fusion as an asynchronous task queue.

Contributors finetune a shared base model, each on a dataset of their own; a Repository fuses the
finetuned parameters into the next base model, as they arrive. The algorithm is Don-Yehiya et
al. 2023, "ColD Fusion: Collaborative Descent for Distributed Multitask Finetuning",
arXiv:2212.01378. ``docs/architecture.md`` says which module holds what.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
