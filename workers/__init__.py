"""The long-running processes: finetune and fusion workers, beat and exporter.

Each is started as ``python -m workers.<name>`` and takes its settings from ``COLDFUSION_*``.
"""

from __future__ import annotations
