"""The words of a text, in any script: what copies of a text have in common, however they are encoded."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from itertools import groupby, islice

_PLAIN = re.compile(r"\w+")
# Where marks and scripts without spaces lie: not in Latin, Greek, Cyrillic and the usual punctuation.
_NOT_PLAIN = re.compile("[\u0300-\u036f\u0483-\u0489\u0590-\u1dff\u20d0-\u20ff\u2c00-\U0010ffff]")
# Written without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
_UNSPACED = (
    "\u0e00-\u0e3a\u0e40-\u0e4e\u0e80-\u0eff\u1000-\u1049\u1050-\u109f\u1780-\u17d3\u17d7\u17dc\u3005-\u3007\u3031-\u3035\u303b"
    "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
# Characters between white space that are no longer one word.
_LONGEST = 64
# Marks that nobody sees: variation selectors, the grapheme joiner, Hangul fillers. Others are of the category Cf.
_UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
# The last of the characters that can be of the categories Cf and M, but for the tags and selectors behind U+E0000.
_LAST = 0x1FFFF


def folded(text: str) -> str:
    """A text as one that looks the same is encoded: compatible forms, letter case and what is not seen aside.

    As Unicode's NFKC_Casefold: letters of full width become the usual ones, a letter and its accent become one
    character; soft hyphens, zero-width characters and marks of direction go.
    """
    if text.isascii():
        return text.casefold()
    unseen, _, _ = _patterns()
    composed = unicodedata.normalize("NFKC", unseen.sub("", text))
    return unicodedata.normalize("NFKC", composed.casefold())


def words(text: str) -> list[str]:
    """The words of a text, folded: letters, digits and their marks, up to whatever else there is.

    In a script that is written without spaces, such as Chinese, Japanese or Thai, each character counts as a word.
    """
    told = folded(text)
    if told.isascii() or _NOT_PLAIN.search(told) is None:  # most texts, and much quicker
        return _PLAIN.findall(told)
    _, word, unspaced = _patterns()
    return [each for run in unspaced.split(told) for each in ([run] if unspaced.match(run) else word.findall(run))]


def normal(text: str) -> str:
    """A text's words alone, folded: equal for texts that say the same."""
    return " ".join(words(text))


def first_words(text: str, count: int) -> str:
    """The beginning of a text, as it stands, up to so many words; nothing of the text is folded.

    Words are what stands between white space; a character of a script without spaces is one, and so are each 64
    characters of what no white space breaks, so that there is no text that is not cut.
    """
    found = list(islice(_pieces().finditer(text), count + 1))
    return text if len(found) <= count else text[: found[count - 1].end()]


@cache
def _pieces() -> re.Pattern[str]:
    marks = _ranges(lambda category: category[0] == "M")
    return re.compile(f"[{_UNSPACED}][{marks}]*|[^\\s{_UNSPACED}]{{1,{_LONGEST}}}")


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """What is not seen, a word, and a character that is one by itself.

    Python's word characters leave out marks, and vowels of Indic scripts are marks.
    """
    formats, marks = _ranges(lambda category: category == "Cf"), _ranges(lambda category: category[0] == "M")
    unseen = re.compile(f"[{formats}\U000e0000-\U000e007f{_UNSEEN}]")
    return unseen, re.compile(f"[\\w{marks}]+"), re.compile(f"([{_UNSPACED}][{marks}]*)")


def _ranges(wanted: Callable[[str], bool]) -> str:
    """The characters of some categories, as a regular expression's class has them."""
    codes = [code for code in range(0x80, _LAST + 1) if wanted(unicodedata.category(chr(code)))]
    # what stands together has one difference between number and place
    runs = [list(run) for _, run in groupby(enumerate(codes), key=lambda at: at[1] - at[0])]
    return "".join(f"{chr(run[0][1])}-{chr(run[-1][1])}" for run in runs)
