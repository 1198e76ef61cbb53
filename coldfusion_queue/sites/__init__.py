"""Private data that stays at a site: where it is, how it is read, and what is kept of it there.

``paths`` finds it; ``scratch`` holds it in canonical form while a turn runs; ``labels`` remembers
the names of its classes from turn to turn; ``preparing`` puts these together. Nothing in here
writes to the store or to Redis.
"""

from __future__ import annotations
