"""Datasets of the Hugging Face hub, through the library `datasets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coldfusion_queue.disk import is_disk_full
from coldfusion_queue.errors import ColdFusionError, DiskFullError, InvalidDatasetError
from coldfusion_queue.intake.parquet import named_class
from coldfusion_queue.intake.problems import listed
from coldfusion_queue.intake.rows import Row
from coldfusion_queue.intake.sources import HubSource
from coldfusion_queue.intake.splits import Splits, choose_splits

__all__ = ["HubLoader", "HubTable", "load_from_hub", "open_hub"]

#: Takes a name and a configuration; gives a ``datasets.DatasetDict`` or a like mapping.
HubLoader = Callable[[str, str | None], Mapping[str, Any]]

_BATCH_ROWS = 1000
_HTTP_CLIENTS = frozenset({"httpcore", "httpcore2", "httpx", "httpx2", "requests", "urllib3"})
_CACHE = Path("~/.cache/huggingface")
_CONFIG_PROBLEMS = ("BuilderConfig", "Config name is missing")
_SPELLING = "check its spelling, and that HF_TOKEN may read it"
_OFFLINE = (
    "check the network and that HF_HUB_OFFLINE is not set, or download it and give the folder"
)


class HubTable:
    """One split of a hub dataset; class indices become their names."""

    unit = "row"
    is_typed = True

    def __init__(self, split: Any, name: str) -> None:
        self._split = split
        self.name = name

    def columns(self) -> tuple[str, ...]:
        """Names of its columns."""
        return tuple(self._split.column_names)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield the values of these columns; other columns are not decoded."""
        number = 0
        for batch in self._split.select_columns(list(columns)).iter(_BATCH_ROWS):
            values = [self._values(batch[column], column) for column in columns]
            for row in zip(*values, strict=True):
                number += 1
                yield number, row

    def _values(self, values: Sequence[object], column: str) -> list[object]:
        feature = self._split.features[column]
        if type(feature).__name__ == "ClassLabel":
            return [named_class(value, feature.names) for value in values]
        return list(values)


def open_hub(source: HubSource, split: str | None, load: HubLoader | None = None) -> Splits:
    """Download a hub dataset, or take it from the library's cache.

    Args:
        source: name and configuration.
        split: name of the split to train on, or None for the training split.
        load: replaces ``datasets.load_dataset``.

    Raises:
        InvalidDatasetError: it is not there, the hub cannot be reached, or the data are broken.
        DiskFullError: no room for it in the library's cache.
    """
    found, loaded = _load(source, load or load_from_hub)
    chosen = choose_splits(loaded, split, str(found))
    tables = {
        role: [HubTable(loaded[name], f"{found} split {name}")] for role, name in chosen.items()
    }
    left_out = sorted(loaded.keys() - chosen.values())
    notes = (f"left out: splits {listed(left_out)}",) if left_out else ()
    return Splits(tables, notes)


def load_from_hub(name: str, config: str | None) -> Mapping[str, Any]:
    """``datasets.load_dataset`` for hub names only: it would also take folders and file formats.

    Raises:
        InvalidDatasetError: the name is a folder here, or a format of the library.
    """
    import datasets
    from datasets import packaged_modules

    formats: Mapping[str, object] = getattr(packaged_modules, "_PACKAGED_DATASETS_MODULES", {})
    if name in formats:
        raise datasets.exceptions.DatasetNotFoundError(name)
    if Path(name).exists():
        problem = f"the folder {name!r} of the current directory stands in the way of the hub's"
        remedy = f"give the path ./{name} if you mean it, or run this from another directory"
        raise InvalidDatasetError(f"hub:{name}", problem, remedy)
    loaded: Mapping[str, Any] = datasets.load_dataset(name, config)
    return loaded


def _load(source: HubSource, load: HubLoader) -> tuple[HubSource, Mapping[str, Any]]:
    from datasets.exceptions import DatasetNotFoundError

    problem, remedy = "the hub has no such dataset for you", _SPELLING
    for candidate in filter(None, [source, source.fallback]):
        try:
            return candidate, load(candidate.name, candidate.config)
        except DatasetNotFoundError:
            continue
        except ColdFusionError:
            raise
        except Exception as error:
            # The library lets errors of a dozen others through.
            if is_disk_full(error):
                raise DiskFullError(str(_CACHE), "HF_HOME") from error
            problem, remedy = _unreachable(error) or _broken(error)
        break
    raise InvalidDatasetError(str(source), problem, remedy)


def _unreachable(error: Exception) -> tuple[str, str] | None:
    # The hub's library has changed its HTTP client more than once.
    is_http = type(error).__module__.partition(".")[0] in _HTTP_CLIENTS
    if is_http or isinstance(error, ConnectionError | TimeoutError):
        return "the Hugging Face hub cannot be reached", _OFFLINE
    return None


def _broken(error: Exception) -> tuple[str, str]:
    # Messages of readers may quote the row that they stumbled over: only known ones are shown.
    text = " ".join(str(error).split())
    if text.startswith(_CONFIG_PROBLEMS):
        return f"it has no such configuration ({text[:300]})", "name one as hub:NAME:CONFIG"
    problem = f"the library 'datasets' cannot load it ({type(error).__name__})"
    return problem, "download it, convert it to .jsonl and give the file"
