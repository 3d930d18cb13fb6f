import io
import sys
import time

import pytest

from retrodistill import console
from retrodistill.console import bar, markdown_table, progress, say, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    def attach() -> Terminal:
        # In the test itself: pytest puts its own stderr back after the fixtures.
        shown = Terminal()
        monkeypatch.delenv("RETRODISTILL_QUIET", raising=False)
        monkeypatch.setattr(sys, "stderr", shown)
        return shown

    return attach


def test_lines_go_to_stderr_and_stdout_stays_clean(capsys):
    say("a line")
    assert capsys.readouterr() == ("", "a line\n")


def test_a_log_gets_a_line_now_and_then_and_no_bar(capsys, monkeypatch):
    monkeypatch.setattr(console, "SECONDS", 0.01)
    with progress(4, "encode", "texts") as shown:
        for _ in range(2):
            time.sleep(0.02)
            shown.update()
            say("a line")
        shown.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("[")[0] for line in lines] == ["encode:  25% 1/4 ", "a line", "encode:  50% 2/4 ", "a line"]
    assert "texts/s" in lines[2]


def test_what_is_done_at_once_leaves_no_line_in_a_log(capsys):
    assert list(track(iter("abc"), 3, "look", "letters")) == ["a", "b", "c"]
    with progress(3, "look", "letters") as shown:
        shown.update(3)
    assert capsys.readouterr() == ("", "")


def test_bars_show_what_how_many_and_how_fast_on_a_terminal(terminal):
    screen = terminal()
    with progress(4, "encode", "texts") as shown:
        shown.update(4)
        shown.refresh()
    assert "encode" in screen.getvalue()
    assert "4/4" in screen.getvalue()
    assert "texts/s" in screen.getvalue()


def test_bars_can_be_silenced(terminal, monkeypatch):
    screen = terminal()
    monkeypatch.setenv("RETRODISTILL_QUIET", "1")
    with progress(4, "encode", "texts") as shown:
        shown.update(4)
    assert screen.getvalue() == ""


def test_a_line_does_not_tear_a_bar(terminal):
    screen = terminal()
    with progress(4, "encode", "texts") as shown:
        shown.update(2)
        say("a line")
        shown.refresh()
    before, line, after = screen.getvalue().partition("a line\n")
    assert line
    assert before.endswith("\r")  # the bar is wiped first
    assert "encode" in after


def test_a_bar_is_closed_when_the_work_fails(terminal):
    terminal()
    with pytest.raises(RuntimeError), progress(4, "encode", "texts"):
        raise RuntimeError
    assert not console.tqdm._instances
    shown = bar(1, "x", "y")
    shown.close()


def test_tables():
    assert markdown_table(["system", "nDCG@10"], [["bm25", "0.676"], ["a longer name", "1"]]) == (
        "| system        | nDCG@10 |\n"
        "|---------------|--------:|\n"
        "| bm25          |   0.676 |\n"
        "| a longer name |       1 |"
    )


def test_bars_and_line_ends_in_cells_do_not_break_a_table():
    assert markdown_table(["a|b"], [["c\nd"]]) == "| a\\|b |\n|------|\n| c d  |"
    assert markdown_table(["a", "b"], []) == "| a | b |\n|---|--:|"


def test_a_row_of_another_length_is_a_mistake_of_ours():
    with pytest.raises((ValueError, IndexError)):
        markdown_table(["a", "b"], [["c"]])
