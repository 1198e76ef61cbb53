"""Build the example datasets from WordNet 3.0 and from Debian package descriptions.

The folder ``examples/data`` was written by this program. On a Debian system with the package
``wordnet-base`` installed, the same is done with::

    apt-cache dumpavail > available
    python examples/make_data.py available examples/data

The WordNet datasets depend only on the WordNet database and on the seed; the Debian ones also
depend on the release whose package list is given.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Row = dict[str, str | float]

WORDNET = Path("/usr/share/wordnet")
SEED = 20230709
TRAIN_ROWS = 1200
TEST_ROWS = 400
MAX_TEXT = 80
"""Longer texts are left out, to keep the folder small and the finetunes short."""

NOUN_FILES = {
    3: "Tops", 4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body", 9: "cognition",
    10: "communication", 11: "event", 12: "feeling", 13: "food", 14: "group", 15: "location",
    16: "motive", 17: "object", 18: "person", 19: "phenomenon", 20: "plant", 21: "possession",
    22: "process", 23: "quantity", 24: "relation", 25: "shape", 26: "state", 27: "substance",
    28: "time",
}  # fmt: skip
"""The lexicographer files of nouns, by their number in the database."""
VERB_FILES = {
    29: "body", 30: "change", 31: "cognition", 32: "communication", 33: "competition",
    34: "consumption", 35: "contact", 36: "creation", 37: "emotion", 38: "motion",
    39: "perception", 40: "possession", 41: "social", 42: "stative", 43: "weather",
}  # fmt: skip
"""The lexicographer files of verbs, by their number in the database."""

LANGUAGES = {
    "go": r"golang-.*-dev$",
    "haskell": r"libghc-.*-dev$",
    "java": r"lib.*-java$",
    "javascript": r"node-",
    "perl": r"lib.*-perl$",
    "php": r"php-",
    "python": r"python3-",
    "r": r"r-(cran|bioc)-",
    "ruby": r"ruby-",
    "rust": r"librust-.*-dev$",
}
"""How the binary packages of a language's libraries are named in Debian."""
LANGUAGE_NAMES = re.compile(
    r"\b(bioconductor|caml|cran|crate|gem|ghc|go|golang|gnu r|haskell|java|javascript|js|jvm|lisp"
    r"|node\w*|npm|ocaml|pear|pecl|perl\w*|php\w*|py\w*|r|rails|ruby\w*|rust\w*)\b|::|- feature ",
    re.IGNORECASE,
)
"""What would tell the language away: descriptions in which it occurs are left out."""


@dataclass
class Synset:
    """One synset of WordNet.

    Attributes:
        lexfile: The number of its lexicographer file.
        words: Its lemmas, with spaces.
        definition: The gloss without its examples.
        examples: The example sentences of the gloss.
        parents: The offsets of its hypernyms, instance hypernyms included.
    """

    lexfile: int
    words: list[str]
    definition: str
    examples: list[str]
    parents: list[int] = field(default_factory=list)


def read_synsets(path: Path) -> dict[int, Synset]:
    """Read a ``data.<part of speech>`` file of the WordNet database.

    Args:
        path: The file.

    Returns:
        The synsets by their offset in the file.
    """
    synsets = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence at the head of the file
            continue
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        words = int(fields[3], 16)
        at = 4 + 2 * words
        pointers = [fields[i : i + 4] for i in range(at + 1, at + 1 + 4 * int(fields[at]), 4)]
        synsets[int(fields[0])] = Synset(
            lexfile=int(fields[1]),
            words=[re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in fields[4:at:2]],
            definition=gloss.partition('; "')[0].strip(' ;"'),
            examples=[text.strip() for text in re.findall(r'"([^"]+)"', gloss)],
            parents=[int(p[1]) for p in pointers if p[0] in ("@", "@i") and p[2] == fields[2]],
        )
    return synsets


def read_packages(path: Path) -> list[dict[str, str]]:
    """Read a Debian package list, one package for each source package and description.

    Args:
        path: A ``Packages`` file, or what ``apt-cache dumpavail`` prints.

    Returns:
        The fields of each package, sorted by package name and description.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for stanza in path.read_text(encoding="utf-8").split("\n\n"):
        matches = re.findall(r"^([\w-]+): *(.*(?:\n .*)*)", stanza, re.MULTILINE)
        fields: dict[str, str] = dict(matches)
        if "Package" in fields and "Description" in fields:
            fields["Description"] = fields["Description"].partition("\n")[0].strip()
            fields["Source"] = (fields.get("Source") or fields["Package"]).partition(" ")[0]
            key = fields["Package"], fields["Description"]
            found[key] = min(found.get(key, fields), fields, key=lambda f: sorted(f.items()))
    return [found[key] for key in sorted(found)]


def noun_rows(nouns: Mapping[int, Synset]) -> Iterator[Row]:
    """Yield the definition of a noun with its lexicographer file."""
    for synset in nouns.values():
        if synset.lexfile != 3:  # Tops: 51 unique beginners
            yield {"text": synset.definition, "label": NOUN_FILES[synset.lexfile]}


def verb_rows(verbs: Mapping[int, Synset]) -> Iterator[Row]:
    """Yield the definition of a verb with its lexicographer file."""
    for synset in verbs.values():
        yield {"text": synset.definition, "label": VERB_FILES[synset.lexfile]}


def sentence_rows(verbs: Mapping[int, Synset]) -> Iterator[Row]:
    """Yield an example sentence of a verb with the lexicographer file of the verb."""
    for synset in verbs.values():
        for text in synset.examples[:1]:
            yield {"text": text, "label": VERB_FILES[synset.lexfile]}


def word_rows(nouns: Mapping[int, Synset]) -> Iterator[Row]:
    """Yield a noun alone with its lexicographer file, where all its senses agree on it."""
    files: defaultdict[str, set[int]] = defaultdict(set)
    for synset in nouns.values():
        for word in synset.words:
            files[word].add(synset.lexfile)
    for word, numbers in files.items():
        if len(numbers) == 1 and 3 not in numbers and word.islower():
            yield {"text": word, "label": NOUN_FILES[min(numbers)]}


def depths(nouns: Mapping[int, Synset]) -> dict[int, int]:
    """Return how far each noun synset is from the root by its shortest path of hypernyms."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for offset, synset in nouns.items():
        for parent in synset.parents:
            children[parent].append(offset)
    level = [offset for offset, synset in nouns.items() if not synset.parents]
    found = dict.fromkeys(level, 0)
    while level:
        below = [child for offset in level for child in children[offset] if child not in found]
        found |= dict.fromkeys(below, found[level[0]] + 1)
        level = list(dict.fromkeys(below))
    return found


def depth_rows(nouns: Mapping[int, Synset]) -> Iterator[Row]:
    """Yield the definition of a noun with its depth below the root, entity."""
    for offset, depth in depths(nouns).items():
        if 3 <= depth <= 12:
            yield {"text": nouns[offset].definition, "label": float(depth)}


def kind_rows(nouns: Mapping[int, Synset], rng: random.Random) -> Iterator[Row]:
    """Yield a noun with its definition, a second noun, and whether the first is a kind of it.

    The true partner is the hypernym. The false one is another child of the hypernym's hypernym,
    so that it comes from the same corner of the tree. A word of the definition is never the
    partner, nor is a part of either noun.
    """
    children: defaultdict[int, list[int]] = defaultdict(list)
    for offset, synset in nouns.items():
        for parent in synset.parents:
            children[parent].append(offset)
    above = depths(nouns)
    for synset in nouns.values():
        if len(synset.parents) != 1 or above[synset.parents[0]] < 4:
            continue
        parent = synset.parents[0]
        cousins = [
            other
            for grandparent in nouns[parent].parents
            for other in children[grandparent]
            if other != parent and children[other]
        ]
        if not cousins:
            continue
        true = rng.random() < 0.5
        partner = nouns[parent if true else rng.choice(cousins)].words[0]
        text = f"{synset.words[0]}: {synset.definition}"
        stems = {word.lower()[:4] for word in re.findall(r"\w+", text)}
        if stems.isdisjoint(word.lower()[:4] for word in re.findall(r"\w+", partner)):
            yield {"text": text, "text_pair": partner, "label": "yes" if true else "no"}


def one_of_a_source(
    packages: Iterable[Mapping[str, str]], label: Callable[[Mapping[str, str]], str | None]
) -> Iterator[Row]:
    """Yield the description of one labelled package of each source package.

    Binary packages of one source share most of their descriptions: two of them on two sides of
    the split would leak.

    Args:
        packages: The packages.
        label: Gives the label of a package, or None to leave it out.

    Yields:
        The rows.
    """
    sources = set()
    for package in packages:
        value = label(package)
        if value is not None and package["Source"] not in sources:
            sources.add(package["Source"])
            yield {"text": package["Description"], "label": value}


def section(package: Mapping[str, str]) -> str | None:
    """Return the archive section of a package; those that hold anything are left out."""
    name = package.get("Section", "").rpartition("/")[2]
    vague = {"", "debug", "devel", "libdevel", "libs", "misc", "oldlibs", "text", "utils"}
    return None if name in vague | {"introspection", "metapackages", "tasks"} else name


def language(package: Mapping[str, str]) -> str | None:
    """Return the language of a library package whose description does not name one."""
    if LANGUAGE_NAMES.search(package["Description"]):
        return None
    return next((k for k, v in LANGUAGES.items() if re.match(v, package["Package"])), None)


def use(package: Mapping[str, str]) -> str | None:
    """Return what a package is for by its only ``use::`` tag."""
    tags = re.findall(r"\buse::([\w-]+)", package.get("Tag", ""))
    return tags[0] if len(tags) == 1 and tags[0] != "TODO" else None


def choose(rows: Iterable[Row], rng: random.Random, at_least: int) -> list[Row]:
    """Choose the rows of a dataset: no text twice, labels as even as they can be.

    Args:
        rows: All rows.
        rng: The source of randomness.
        at_least: Labels with fewer rows than this are left out.

    Returns:
        At most ``TRAIN_ROWS + TEST_ROWS`` rows in random order.
    """
    seen: set[str] = set()
    by_label: defaultdict[str | float, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: json.dumps(r, sort_keys=True)):
        text = str(row["text"])
        key = " ".join(re.findall(r"\w+", text.lower()))
        if key and key not in seen and len(text) <= MAX_TEXT:
            seen.add(key)
            by_label[row["label"]].append(row)
    groups = [group for _, group in sorted(by_label.items()) if len(group) >= at_least]
    for group in groups:
        rng.shuffle(group)
    turns = [[group[i] for group in groups if i < len(group)] for i in range(max(map(len, groups)))]
    chosen = [row for turn in turns for row in turn][: TRAIN_ROWS + TEST_ROWS]
    rng.shuffle(chosen)
    return chosen


def write(rows: Sequence[Row], path: Path) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def main() -> None:
    """Build every dataset and print its size."""
    parser = argparse.ArgumentParser(description="Build the example datasets.")
    parser.add_argument("packages", type=Path, help="a Debian Packages file or dumpavail output")
    parser.add_argument("out", type=Path, help="the folder to write the datasets to")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="WordNet database folder")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()

    nouns = read_synsets(args.wordnet / "data.noun")
    verbs = read_synsets(args.wordnet / "data.verb")
    packages = read_packages(args.packages)
    kind_rng = random.Random(f"{args.seed}/partners")  # noqa: S311
    datasets: dict[str, tuple[Iterable[Row], int]] = {
        "debian_language": (one_of_a_source(packages, language), 60),
        "debian_section": (one_of_a_source(packages, section), 60),
        "debian_use": (one_of_a_source(packages, use), 60),
        "wordnet_depth": (depth_rows(nouns), 60),
        "wordnet_kind": (kind_rows(nouns, kind_rng), 60),
        "wordnet_noun": (noun_rows(nouns), 60),
        "wordnet_sentence": (sentence_rows(verbs), 60),
        "wordnet_verb": (verb_rows(verbs), 60),
        "wordnet_word": (word_rows(nouns), 60),
    }
    for name, (rows, at_least) in datasets.items():
        chosen = choose(rows, random.Random(f"{args.seed}/{name}"), at_least)  # noqa: S311
        test = chosen[: min(TEST_ROWS, len(chosen) // 4)]
        train = chosen[len(test) :]
        write(train, args.out / name / "train.jsonl")
        write(test, args.out / name / "test.jsonl")
        labels = len({row["label"] for row in chosen})
        print(f"{name:18} {len(train):5} train {len(test):4} test {labels:3} labels")


if __name__ == "__main__":
    main()
