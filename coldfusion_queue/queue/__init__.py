"""The task queue: Celery on Redis.

``app`` configures Celery, ``tasks`` are the thin tasks that call the library, ``turns`` is what
becomes of a finetune's message, ``sending`` puts turns on their queue and finds those that are
lost. ``leases``, ``lock`` and ``progress`` are the little state that lives in Redis and can be
lost at any moment; ``renewal`` and ``stopping`` are what a worker does beside its task.
"""

from __future__ import annotations
