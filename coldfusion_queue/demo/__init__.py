"""The demo: the whole loop on one machine, with real parts, in minutes.

``recipe`` says what is run, ``loop`` runs it, ``probing`` measures what came out and ``plot``
draws it.
"""

from __future__ import annotations
