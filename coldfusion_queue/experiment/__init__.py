"""The paper's protocol as a declared experiment that runs on the same workers.

``spec`` is the file that declares it, ``arms`` what is run for it and ``schedule`` who contributes
when. ``driver`` goes through the arms (``course``), sends turns, fusions and evaluations to the
workers and waits for them; ``results``, ``tables`` and ``curves`` read what the records say then.
All state is in the bucket, so an experiment that was broken off goes on.
"""

from __future__ import annotations
