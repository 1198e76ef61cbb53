"""Libraries that write their log records by themselves are made to leave that to us."""

from __future__ import annotations

import logging

__all__ = ["adopt_libraries"]

#: They bring handlers that write text to standard error, and pass nothing on.
_PACKAGES = frozenset({"datasets", "huggingface_hub", "torch", "transformers"})
#: For torch's own tools: everything at the finest level, when a variable asks for it.
_LEFT_ALONE = "torch.__trace"


def adopt_libraries() -> None:
    """Pass records of all libraries on to the root's handlers, also of those imported later."""
    logging.setLoggerClass(_Logger)
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and _is_adopted(name):
            logger.handlers.clear()
            logger.__class__ = _Logger


def _is_adopted(name: str) -> bool:
    return name.partition(".")[0] in _PACKAGES and name != _LEFT_ALONE


class _Logger(logging.Logger):
    """One of those libraries can neither give it a handler nor keep its records back."""

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 - the name of logging
        if not _is_adopted(self.name):
            super().addHandler(hdlr)

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name of logging
        if _is_adopted(self.name):
            logging.root.callHandlers(record)
        else:
            super().callHandlers(record)
