"""What an embedded server is; ``valkey`` and ``seaweed`` are the two that there are.

Both bind the loopback interface only and ask for credentials.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Self

__all__ = ["Server"]


class Server(ABC):
    """An embedded server with a data directory and ports of its own."""

    name: str
    directory: Path

    @property
    @abstractmethod
    def ports(self) -> tuple[int, ...]:
        """Ports that it listens on."""

    @property
    @abstractmethod
    def command(self) -> tuple[str, ...]:
        """Program and arguments, without secrets."""

    @property
    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """Variables of its process, besides the plainest."""

    @abstractmethod
    def on_free_ports(self) -> Self:
        """The same server on other ports, which are free."""

    @abstractmethod
    def prepare(self) -> None:
        """Make its directory and its configuration."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it takes our credentials and does its work, which no other server would."""

    def clean(self) -> None:  # noqa: B027 - most servers leave nothing behind
        """Remove what it left outside its directory; it does not run any more."""
