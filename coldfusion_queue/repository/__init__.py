"""The Repository protocol: who may write what, in which order, and what makes it final.

``docs/protocol.md`` tells it as numbered steps. Here, ``repository`` opens one; ``committing`` is
the commit of a finetune and ``fusing`` that of a fusion, each step in one place; ``ledger``,
``inbox``, ``submissions`` and ``base_versions`` hold the state those steps move.
"""

from __future__ import annotations
