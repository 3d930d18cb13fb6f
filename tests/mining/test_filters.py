import sys

import numpy as np
import pytest
from pydantic import ValidationError

from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.mining.filters import DuplicatesOfPositives, Length, Script
from retrodistill.mining.languages import Language
from retrodistill.mining.near import NearDuplicates, signature
from retrodistill.mining.pool import Pool
from retrodistill.registry import build

TEXTS = {
    "positive": "The storm of May, 1910!",
    "same": "the storm of may 1910",
    "spaced": "  The  storm\nof (May) 1910. ",
    "longer": "The storm of May, 1910! It rained.",
    "folded": "Straße",
    "capitals": "STRASSE",
    "empty": "",
    "marks": "?!",
}


def keep(part, corpus, documents, positives, query=""):
    collection = Collection("toy", corpus, Texts.queries("toy", [("q", query)]), {})
    return part.keep(Pool("q", documents, np.ones(len(documents), dtype=np.int64), positives, collection))


def kept(documents, positives, part=None, texts=None, query=""):
    corpus = Texts.documents("toy", [(key, "", text) for key, text in (texts or TEXTS).items()])
    found = keep(part or DuplicatesOfPositives(), corpus, documents, positives, query)
    assert (found.dtype, found.shape) == (np.bool_, (len(documents),))
    return [document for document, stays in zip(documents, found, strict=True) if stays]


def test_case_punctuation_and_spaces_do_not_tell_texts_apart():
    assert kept(["same", "spaced", "longer", "empty"], ["positive"]) == ["longer", "empty"]
    assert kept(["capitals", "same"], ["folded"]) == ["same"]


def test_encodings_do_not_tell_texts_apart_and_vowels_do():
    texts = {
        "positive": "Le café à Zürich",
        "decomposed": "Le cafe\u0301 a\u0300 Zu\u0308rich",
        "hyphens": "Le ca\u00adfé à Zü\u200brich",
        "other": "Le cafe a Zurich",
    }
    assert kept(["decomposed", "hyphens", "other"], ["positive"], texts=texts) == ["other"]
    assert kept(["other"], ["positive"], texts={"positive": "दिन", "other": "दीन"}) == ["other"]  # day, poor


def test_any_positive_counts():
    assert kept(["same", "capitals", "longer"], ["folded", "positive"]) == ["longer"]


def test_title_and_text_are_compared_together():
    corpus = Texts.documents(
        "toy", [("a", "The storm", "of May"), ("b", "", "the storm of May"), ("c", "of May", "the storm")]
    )
    assert keep(DuplicatesOfPositives(), corpus, ["b", "c"], ["a"]).tolist() == [False, True]


def test_without_positives_or_documents_nothing_is_dropped():
    assert kept(["same", "empty"], []) == ["same", "empty"]
    assert kept([], ["positive"]) == []


def test_candidates_that_say_the_same_as_each_other_go_where_that_is_asked_for():
    rest = ["same", "longer", "spaced", "folded", "capitals", "empty", "marks"]
    among = DuplicatesOfPositives(among=True)
    assert kept(rest, [], among) == ["same", "longer", "folded", "empty"]  # the first of each
    assert kept(rest, ["positive"], among) == ["longer", "folded", "empty"]
    near = [name for name in COPIES if name != "positive"]
    assert kept([*near, "positive"], [], NearDuplicates(among=True), COPIES) == near
    assert kept(near, ["positive"], NearDuplicates(among=True, threshold=0.25), COPIES) == near[2:]
    assert [rule.needs_positives for rule in (among, DuplicatesOfPositives())] == [False, True]


def test_a_positive_that_the_corpus_does_not_hold_is_passed_over():
    assert kept(["same"], ["not there"]) == ["same"]


# Near duplicates

LONG = " ".join(f"word{number}" for number in range(200))
COPIES = {
    "positive": LONG,
    "header": f"Copyright 1910, all rights reserved. {LONG.upper()}!",  # 198 runs of three of 203
    "half": " ".join([*LONG.split()[:100], *(f"other{number}" for number in range(100))]),  # 98 runs of 298
    "shuffled": " ".join(sorted(LONG.split(), reverse=True)),
    "short": "word0 word1",
    "empty": "",
}


def test_near_duplicates_of_a_positive_go():
    rest = [name for name in COPIES if name != "positive"]
    assert kept(rest, ["positive"], NearDuplicates(), COPIES) == ["half", "shuffled", "short", "empty"]
    assert kept(rest, ["positive"], NearDuplicates(threshold=0.25), COPIES) == ["shuffled", "short", "empty"]
    assert kept(rest, ["positive"], NearDuplicates(threshold=0.9, words=1), COPIES) == ["half", "short", "empty"]
    assert kept(rest, [], NearDuplicates(), COPIES) == rest


@pytest.mark.parametrize("first", ["一", "ก", "ぁ"])
def test_near_duplicates_in_scripts_without_spaces(first):
    long = "".join(chr(ord(first) + number) for number in range(40))
    texts = {"positive": long, "copy": f"1910 {long}", "other": long[::-1], "half": long[:20] + long[19::-1]}
    assert kept(["copy", "other", "half"], ["positive"], NearDuplicates(), texts) == ["other", "half"]


def test_the_estimate_is_that_of_jaccard():
    other = signature(COPIES["half"], 3, 4_096)
    estimate = float((signature(LONG, 3, 4_096) == other).mean())
    assert estimate == pytest.approx(98 / 298, abs=4 * (0.33 * 0.67 / 4_096) ** 0.5)
    assert (signature(LONG, 3, 64) == signature(LONG.title(), 3, 64)).all()


# Length


def test_length_counts_words():
    texts = {"none": "?!", "one": "word", "two": "two words!", "three": "a b c"}
    assert kept(list(texts), [], Length(), texts) == ["one", "two", "three"]
    assert kept(list(texts), [], Length(min=2), texts) == ["two", "three"]
    assert kept(list(texts), [], Length(min=0, max=2), texts) == ["none", "one", "two"]
    texts = {"chinese": "一九一零年", "hindi": "दिन में"}
    assert kept(list(texts), [], Length(min=3), texts) == ["chinese"]
    with pytest.raises(ValidationError, match="max: 2 words are fewer than min: 3"):
        Length(min=3, max=2)


# Script

LETTERS = {
    "english": "The storm of May 1910",
    "german": "Der Sturm im Mai",
    "russian": "Буря 1910 года",
    "chinese": "一九一零年的風暴",
    "mixed": "storm буря бури",  # 5 Latin letters of 13
    "numbers": "1910",
}


def test_letters_tell_scripts_apart_and_not_languages():
    documents = list(LETTERS)
    assert kept(documents, [], Script(), LETTERS, "when was the storm") == ["english", "german", "numbers"]
    assert kept(documents, [], Script(), LETTERS, "когда") == ["russian", "mixed", "numbers"]
    assert kept(documents, [], Script(), LETTERS, "1910?") == documents
    assert kept(documents, [], Script(scripts=("CJK", "CYRILLIC"), share=0.7), LETTERS, "storm") == [
        "russian",
        "chinese",
        "numbers",
    ]
    assert "mixed" in kept(documents, [], Script(share=5 / 13), LETTERS, "storm")


EASTERN = {
    "kanji": "東京都庁舎建設計画概要",
    "japanese": "東京の天気は晴れでしょう、ラーメン",
    "katakana": "ｺﾝﾋﾟｭｰﾀ",  # half width
    "korean": "서울의 오늘 날씨",
    "hanja": "大韓民國 憲法 制一條 의",
    "english": "weather in Tokyo",
    "wide": "\uff34\uff4f\uff4b\uff59\uff4f",
}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("てんき", ["kanji", "japanese", "katakana", "hanja"]),
        ("東京のてんき", ["kanji", "japanese", "katakana", "hanja"]),
        ("ラーメン", ["kanji", "japanese", "katakana", "hanja"]),
        ("東京天気", ["kanji", "japanese", "katakana", "hanja"]),
        ("오늘 날씨", ["kanji", "korean", "hanja"]),
        ("憲法 의", ["kanji", "korean", "hanja"]),
        ("weather", ["english", "wide"]),
    ],
)
def test_scripts_of_one_language_stand_beside_each_other(query, expected):
    assert kept(list(EASTERN), [], Script(), EASTERN, query) == expected


def test_scripts_are_named_in_the_short_form():
    assert build("filter", "script:HANGUL") == Script(scripts=("HANGUL",))
    assert kept(list(EASTERN), [], Script(scripts=("HANGUL",)), EASTERN) == ["korean"]
    assert (Script().label, Script(scripts=("CJK", "HANGUL")).label) == ("script", "script:CJK+HANGUL")


# Language

SPOKEN = {
    "english": "The storm of May 1910 came over the bridge and took the roofs of the houses with it.",
    "german": "Der Sturm im Mai 1910 kam über die Brücke und nahm die Dächer der Häuser mit sich fort.",
    "french": "La tempête de mai 1910 est venue par le pont et a emporté les toits des maisons.",
    "short": "Sturm 1910",
    "empty": "",
}


def test_languages_in_one_script_are_told_apart():
    pytest.importorskip("py3langid")
    documents = list(SPOKEN)
    assert kept(documents, [], Language(languages=("en",)), SPOKEN) == ["english", "short", "empty"]
    assert kept(documents, [], build("filter", "language:de"), SPOKEN) == ["german", "short", "empty"]
    assert kept(documents, [], Language(languages=("en", "fr"), letters=0), SPOKEN)[:2] == ["english", "french"]
    with pytest.raises(InputError, match="unknown language 'eng'; did you mean 'en'"):
        Language(languages=("en", "eng")).check()


def test_without_its_package_the_language_filter_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(InputError, match=r"needs the package py3langid; pip install 'retrodistill\[language\]'"):
        Language(languages=("en",)).check()
