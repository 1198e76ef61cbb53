"""The README of the chart says every value, in the words of `values.yaml`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helm.document_values import UndocumentedError, main, make_readme, read_values, table

SCRIPT = Path(__file__).parents[2] / "helm" / "document_values.py"

VALUES = """\
# A word to who reads the file, which is no description.

# -- How many there are.
replicas: 1

# -- The broker.
broker:
  # -- Its address. It
  # goes on in a second line.
  url: ""
  tls:
    # -- A pipe | would end a cell.
    enabled: false
    # -- Made by the chart.
    # @default -- a name from that of the release
    secret: ""
  # -- Passed on as it is.
  resources:
    requests: {cpu: 1}
  # -- In one line.
  limits: {cpu: 2}
"""


def chart(directory: Path, values: str = VALUES) -> Path:
    (directory / "values.yaml").write_text(values, encoding="utf-8")
    (directory / "README.md.in").write_text("# A chart\n\n<!-- values -->\nEnd.\n", "utf-8")
    return directory


def test_each_top_level_key_is_a_section_with_its_rows(tmp_path: Path) -> None:
    text = make_readme(chart(tmp_path))

    assert text.partition("-->\n")[2] == (
        "# A chart\n"
        "\n"
        "### One key each\n"
        "\n"
        "| key | default | description |\n"
        "|---|---|---|\n"
        "| `replicas` | `1` | How many there are. |\n"
        "\n"
        "### `broker`\n"
        "\n"
        "The broker.\n"
        "\n"
        "| key | default | description |\n"
        "|---|---|---|\n"
        '| `broker.url` | `""` | Its address. It goes on in a second line. |\n'
        "| `broker.tls.enabled` | `false` | A pipe \\| would end a cell. |\n"
        "| `broker.tls.secret` | a name from that of the release | Made by the chart. |\n"
        '| `broker.resources` | `{"requests": {"cpu": 1}}` | Passed on as it is. |\n'
        '| `broker.limits` | `{"cpu": 2}` | In one line. |\n'
        "End.\n"
    )


def test_a_value_without_a_description_is_refused_by_its_line() -> None:
    with pytest.raises(UndocumentedError, match=r"line 4: broker\.port has no description"):
        read_values("broker:\n  # -- Address.\n  url: ''\n  port: 1\n")


def test_a_comment_above_an_empty_line_describes_nothing() -> None:
    with pytest.raises(UndocumentedError, match="line 3: url"):
        read_values("# -- Of something else.\n\nurl: ''\n")


def test_long_defaults_are_left_to_the_file() -> None:
    entries = read_values(f"# -- Long.\nwords: {'word ' * 40}\n")

    assert "| `words` | see `values.yaml` | Long. |" in table(entries)


def test_check_tells_a_readme_that_is_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--chart", str(chart(tmp_path))]
    assert main([*arguments, "--check"]) == 1
    assert "run `make chart-readme`" in capsys.readouterr().err

    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0

    chart(tmp_path, VALUES.replace("How many", "The number"))
    assert main([*arguments, "--check"]) == 1


def test_a_readme_without_a_place_for_the_tables_is_refused(tmp_path: Path) -> None:
    (chart(tmp_path) / "README.md.in").write_text("# A chart\n", encoding="utf-8")

    with pytest.raises(UndocumentedError, match="<!-- values -->"):
        make_readme(tmp_path)


def test_it_runs_as_a_script_from_anywhere(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--chart", str(chart(tmp_path))]

    subprocess.run(command, cwd=os.sep, check=True)

    assert "| `replicas` | `1` |" in (tmp_path / "README.md").read_text(encoding="utf-8")
