"""How good a base version is.

``probe`` fits a linear classifier on the frozen body: the paper's ColD-Frozen.
"""

from __future__ import annotations
