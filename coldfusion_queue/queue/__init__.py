"""The task queue: Celery on Redis.

``app`` configures Celery, ``tasks`` are the thin tasks that call the library, ``sending`` puts
them on their queues; ``progress`` and ``lock`` are the little state that lives in Redis and can
be lost at any moment.
"""

from __future__ import annotations
