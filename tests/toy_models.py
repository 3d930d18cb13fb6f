"""Language models and teachers whose answers can be worked out by hand, and counted."""

import hashlib
from typing import Any, ClassVar, Literal

import numpy as np

from retrodistill.registry import Part
from retrodistill.scores.orders import Order
from retrodistill.teachers.comparing import Comparing
from retrodistill.teachers.ordering import Ordering


class Knowing(Part):
    """Log-probabilities are a digest of prompt and choice; `likes` makes it prefer what holds these words."""

    kind: Literal["knowing"] = "knowing"
    likes: str = ""

    def open(self):
        return Opened(self)

    @staticmethod
    def log(prompt: str, choice: str) -> float:
        digest = hashlib.blake2b(f"{prompt}|{choice}".encode("utf-8", "surrogatepass"), digest_size=4).digest()
        return -int.from_bytes(digest, "big") / 2**30 - 0.1


class Opened:
    local = True

    def __init__(self, options):
        self.options = options
        self.asked: list[str] = []
        self.choices_asked: list[str] = []
        self.identity: dict[str, Any] = {"kind": "knowing", "likes": options.likes}

    def _read(self, prompts):
        found = []
        for prompt in prompts:
            if isinstance(prompt.messages, str):
                found.append(prompt.messages)
            else:
                found.append("\n".join(f"{turn.role}: {turn.content}" for turn in prompt.messages))
        self.asked += found
        return found

    def _liked(self, prompt, choices):
        """The choice that speaks for the liked words: the first label where one document is shown, else its name."""
        place = prompt.find(self.options.likes)
        for name in choices:
            for shown in (f"[{name}] ", f"Document {name}: ", f"\n{name} "):
                at = prompt.find(shown)
                if 0 <= at < place and not any(
                    at < prompt.find(f"{shown.replace(name, other)}") < place for other in choices if other != name
                ):
                    return name
        return choices[0] if choices[0] not in ("0", "A") else choices[-1]

    def choices(self, prompts, choices):
        self.choices_asked = list(choices)
        rows = []
        for prompt in self._read(prompts):
            if prompt.endswith("FAIL"):
                rows.append([np.nan] * len(choices))
            elif self.options.likes:
                liked = self._liked(prompt, list(choices)) if self.options.likes in prompt else None
                rows.append([-1.0 if choice == liked else -5.0 for choice in choices])
                if liked is None:
                    rows[-1] = [-5.0] * len(choices)
                    rows[-1][0 if choices[0] == "0" else 1] = -1.0
            else:
                rows.append([Knowing.log(prompt, choice) for choice in choices])
        return np.array(rows, dtype=np.float32)

    def likelihood(self, prompts, continuations):
        read = self._read(prompts)
        if self.options.likes:
            return np.array([-1.0 if self.options.likes in prompt else -5.0 for prompt in read], dtype=np.float32)
        pairs = zip(read, continuations, strict=True)
        return np.array([Knowing.log(prompt, said) for prompt, said in pairs], dtype=np.float32)

    def count_tokens(self, prompts):
        return np.array([len(text.split()) for text in self._read(prompts)])

    def generate(self, prompts, max_tokens):
        said = []
        for prompt in self._read(prompts):
            first = prompt.rfind("[1] ") < prompt.find(self.options.likes) < prompt.rfind("[2] ")
            said.append("[1] > [2]" if first else "[2] > [1]")
        return said


class ByLength(Comparing):
    """Likes the longer of two texts, and what is shown first a little."""

    kind: Literal["by_length"] = "by_length"
    model: str = ""
    fails_at: str = ""

    def open(self, collection):
        return Longer(self, collection)


class Longer:
    pairs_a_part = 3
    asked: ClassVar[list[tuple[str, str, str]]] = []

    def __init__(self, options, collection):
        self.options, self.collection = options, collection
        self.identity = {"kind": "by_length"}

    def query_text(self, query_id):
        return self.collection.queries.text(query_id)

    def document_text(self, doc_id):
        return self.collection.corpus.text(doc_id)

    def prefer(self, query_ids, first_ids, second_ids):
        rows = list(zip(query_ids, first_ids, second_ids, strict=True))
        Longer.asked += rows
        lengths = [(len(self.document_text(a)), len(self.document_text(b))) for _, a, b in rows]
        logits = np.array([0.5 + 0.1 * (a - b) for a, b in lengths], dtype=np.float32)
        return np.where([self.options.fails_at in (a, b) for _, a, b in rows], np.float32(np.nan), logits)


class Alphabet(Ordering):
    """Orders by id; fails at windows that hold `fails_at`, and says nonsense where `mumbles`."""

    kind: Literal["alphabet"] = "alphabet"
    model: str = ""
    fails_at: str = ""
    mumbles: bool = False

    def open(self, collection):
        return Spelling(self, collection)


class Spelling:
    pairs_a_part = 2
    asked: ClassVar[list[Any]] = []

    def __init__(self, options, collection):
        self.options, self.collection = options, collection
        self.identity = {"kind": "alphabet", "mumbles": options.mumbles}

    def query_text(self, query_id):
        return self.collection.queries.text(query_id)

    def document_text(self, doc_id):
        return self.collection.corpus.text(doc_id)

    def order(self, windows):
        Spelling.asked += windows
        found = []
        for window in windows:
            ranking = sorted(range(len(window.doc_ids)), key=lambda place: window.doc_ids[place])
            order = Order(tuple(ranking), None, "said", len(ranking) if self.options.mumbles else 0)
            found.append(None if self.options.fails_at in window.doc_ids else order)
        return found


class Plain:
    """A teacher that only reads."""

    kind = label = "plain"

    def open(self, collection):
        self.identity = {"kind": "plain"}
        self.query_text, self.document_text = collection.queries.text, collection.corpus.text
        return self
