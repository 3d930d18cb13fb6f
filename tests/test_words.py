import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrodistill.words import first_words, folded, normal, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Café crème", unicodedata.normalize("NFD", "Café crème")),
        ("storm of 1910", "\uff33\uff54\uff4f\uff52\uff4d\u3000of \uff11\uff19\uff11\uff10"),  # full width
        ("the storm", "the st\u00adorm"),  # a soft hyphen
        ("the storm", "\ufeffthe sto\u200brm\u200e"),  # byte order mark, zero-width space, mark of direction
        ("\u0645\u06cc\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("office", "o\ufb03ce"),  # a ligature
        ("ガラス", "ｶﾞﾗｽ"),  # half width
        ("STRASSE", "straße"),
        ("葛", "葛\U000e0100"),  # a variant of the glyph
    ],
)
def test_encodings_of_one_text_are_one(one, other):
    assert normal(one) == normal(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("की", "का"),  # Devanagari: of and another of
        ("กิน", "กัน"),  # Thai: to eat, together
        ("தமிழ்", "தமழ்"),  # Tamil, without its vowel
        ("résumé", "resume"),
        ("שָׁלוֹם", "שלום"),
    ],
)
def test_words_that_differ_by_a_mark_differ(one, other):
    assert normal(one) != normal(other)


def test_words_by_hand():
    assert words("The storm_1, of (May) 1910!") == ["the", "storm_1", "of", "may", "1910"]
    assert words("हिन्दी में") == ["हिन्दी", "में"]
    assert words("天気は晴れ、GPUで。") == ["天", "気", "は", "晴", "れ", "gpu", "で"]
    assert words("กินข้าว") == ["กิ", "น", "ข้", "า", "ว"]  # marks stay with their letter
    assert words("ジョン・スミス") == [*"ジョン", *"スミス"]
    assert words("오늘 날씨") == ["오늘", "날씨"]  # Korean has spaces
    assert words("?! \u200b") == words("") == []


@given(st.text())
def test_folding_is_done_once_and_for_all(text):
    assert folded(folded(text)) == folded(text)
    assert words(normal(text)) == words(text)
    assert not text.isascii() or words(text) == words(text + "\u00ad")  # the short way says the same


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("one  two\nthree four", 2, "one  two"),
        ("one two", 2, "one two"),
        (" one two ", 2, " one two "),
        ("", 1, ""),
        ("天気は晴れ", 3, "天気は"),
        ("GPUで計算", 2, "GPUで"),
        ("กินข้าว", 1, "กิ"),
        ("x" * 200, 2, "x" * 128),
    ],
)
def test_the_first_words_of_a_text_stand_as_they_stood(text, count, expected):
    assert first_words(text, count) == expected


@given(st.text(), st.integers(1, 9))
def test_a_beginning_has_so_many_words_and_no_more(text, count):
    found = first_words(text, count)
    assert text.startswith(found)
    assert first_words(found, count) == found
    assert len(found.split()) <= count
