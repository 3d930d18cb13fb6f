import re
from pathlib import Path

import pytest
import yaml

from retrodistill.registry import build, table

PAGE = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
LINES = re.findall(r"^ +(- \{kind: .*\})$", PAGE, flags=re.MULTILINE)


def test_the_page_has_a_row_and_a_section_for_each_loss():
    rows = re.findall(r"^\| \[`(\w+)`\]\(#(\w+)\)", PAGE, flags=re.MULTILINE)
    assert rows == [(kind, kind) for kind in SECTIONS]
    assert set(SECTIONS) == set(table("loss"))


@pytest.mark.parametrize("line", LINES)
def test_each_line_of_the_page_is_a_loss(line):
    (options,) = yaml.safe_load(line)
    assert build("loss", options).kind == options["kind"]


@pytest.mark.parametrize("kind", SECTIONS)
def test_each_section_has_a_line_that_makes_its_loss(kind):
    assert f"- {{kind: {kind}" in SECTIONS[kind]


def test_the_table_says_what_losses_need():
    for kind, loss in table("loss").items():
        row = re.search(rf"^\| \[`{kind}`\].*$", PAGE, flags=re.MULTILINE).group().strip("| ").split("|")
        teacher, labels, in_batch = (cell.strip() for cell in row[2:5])
        part = loss()
        assert (in_batch == "yes") == part.in_batch
        assert teacher if part.needs_teacher else teacher != "yes"
        assert labels if part.needs_labels else labels != "yes"
