"""An OpenAI-compatible server that misbehaves as told, and remembers what it answered."""

from __future__ import annotations

import hashlib
import json
import math
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MISHAPS = ("late", "429", "500", "html", "half", "schema", "empty", "index", "model", "nothing", "drop")


def truth(prompt: str) -> float:
    """The probability of Yes that the server gives a prompt."""
    return (1 + hashlib.sha256(prompt.encode()).digest()[0]) / 258


class ChaosServer:
    """Answers truthfully where `mishap(prompt, attempt)` is None, and has that mishap where it names one.

    Attributes:
        answered: whole, right replies by prompt: what a provider would bill.
        asked: requests by prompt.
        requests: bodies in the order of arrival.
        headers: of every request.
    """

    def __init__(
        self,
        mishap: Callable[[str, int], str | None] = lambda prompt, attempt: None,
        *,
        key: str | None = None,
        logprobs: bool = True,
        delay: float = 0.0,
        words: Callable[[str], str] | None = None,
    ) -> None:
        self.mishap, self.key, self.logprobs, self.delay = mishap, key, logprobs, delay
        self.words = words or (lambda prompt: "Yes" if truth(prompt) > 0.5 else "No")
        self.answered: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass  # clients that were killed leave broken pipes

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self) -> ChaosServer:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        with self.lock:
            attempt = self.asked[prompt]
            self.asked[prompt] += 1
            self.requests.append(body)
            self.headers.append(dict(handler.headers))
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            time.sleep(self.delay)
            self.reply(handler, body, prompt, attempt)
        finally:
            with self.lock:
                self.under_way -= 1

    def reply(self, handler: BaseHTTPRequestHandler, body: dict, prompt: str, attempt: int) -> None:
        if self.key is not None and handler.headers.get("Authorization") != f"Bearer {self.key}":
            said = {"error": {"message": f"wrong key: {handler.headers.get('Authorization')}"}}
            return self.send(handler, 401, json.dumps(said).encode())
        mishap = self.mishap(prompt, attempt)
        whole = self.answer(handler.path, body, prompt)
        content = json.dumps(whole).encode()
        if mishap is None:
            if self.send(handler, 200, content):
                with self.lock:
                    self.answered[prompt] += 1
            return None
        if mishap == "late":
            time.sleep(1.0)
            return self.send(handler, 200, content)
        if mishap == "drop":
            # resets the connection instead of closing it
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return None
        if mishap.isdecimal():
            headers = {"Retry-After": "0"} if mishap == "429" else {}
            return self.send(handler, int(mishap), b'{"error": {"message": "no"}}', headers)
        changed = {
            "html": b"<html>Bad gateway</html>",
            "half": content[: len(content) // 2],
            "nothing": b"",
            "schema": json.dumps({"result": "Yes"}).encode(),
            "empty": json.dumps({**whole, "choices": []}).encode(),
            "index": json.dumps({**whole, "choices": [{**whole["choices"][0], "index": 7}]}).encode(),
            "model": json.dumps({**whole, "model": "another"}).encode(),
        }
        return self.send(handler, 200, changed[mishap])

    def answer(self, path: str, body: dict, prompt: str) -> dict:
        yes = truth(prompt)
        top = {"Yes": math.log(yes), "No": math.log(1 - yes), "Maybe": -20.0}
        choice: dict = {"index": 0, "finish_reason": "length"}
        if body.get("echo"):
            words = [word for word in prompt.replace(" ", "\0 ").split("\0") if word]
            places = [sum(map(len, words[:number])) for number in range(len(words) + 1)]
            choice["text"] = prompt + " more"
            choice["logprobs"] = {
                "tokens": [*words, " more"],
                "token_logprobs": [None, *(-float(len(word)) for word in words[1:]), -0.5],
                "text_offset": places,
                "top_logprobs": None,
            }
        elif path.endswith("/chat/completions"):
            choice["message"] = {"role": "assistant", "content": self.words(prompt)}
            if body.get("logprobs"):
                listed = [{"token": token, "logprob": value} for token, value in top.items()]
                choice["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}]}
        else:
            choice["text"] = self.words(prompt)
            if body.get("logprobs"):
                choice["logprobs"] = {"tokens": ["Yes"], "token_logprobs": [top["Yes"]], "top_logprobs": [top]}
        if not self.logprobs:
            choice.pop("logprobs", None)
        used = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
        return {"id": "x", "object": "completion", "model": "served-name", "choices": [choice], "usage": used}

    def send(
        self, handler: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str] | None = None
    ) -> bool:
        try:
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(content)
        except OSError:
            return False
        return True
