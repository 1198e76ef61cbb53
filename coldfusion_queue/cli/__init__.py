"""The command line, one module per command.

Modules import heavy things inside their functions, so that ``--help`` and completion answer at
once.
"""

from __future__ import annotations
