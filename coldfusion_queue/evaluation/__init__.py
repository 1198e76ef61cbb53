"""How good a base version is.

``measuring`` does one evaluation on files of this machine: a linear probe on the frozen body
(``features``, ``probe``), or a finetune from the base version. ``intervals`` says how sure a score
is.
"""

from __future__ import annotations
