"""The local stack: the same parts as in a cluster, on one machine, installed by pip.

``stack.LocalStack`` is ``coldfusion up`` and ``down``; ``embedded.embedded_servers`` lends a
fresh pair of servers to a block of code, such as a test.
"""

from __future__ import annotations

from coldfusion_queue.local.embedded import embedded_servers
from coldfusion_queue.local.stack import LocalStack, ProcessStatus

__all__ = ["LocalStack", "ProcessStatus", "embedded_servers"]
