"""The scanner of every text that the library reads: specs, pipelines, textual IR."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NoReturn, TypeVar

from graphopt.errors import ParseError

T = TypeVar("T")

_TOKEN = re.compile(
    r"""(?P<skip>(?:\s+|//[^\n]*)+)
    |(?P<value>%(?:[\w./$-]+|"(?:[^"\\\n]|\\.)*"))
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<bytes>hex:[0-9a-f]*)
    |(?P<pair>\d+:\d+(?![\w.]))
    |(?P<number>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf\b|nan\b))
    |(?P<word>[A-Za-z_][\w.-]*)
    |(?P<mark>[][(){},:=@*+/?<>-])""",
    re.VERBOSE,
)


class Scanner:
    """A one-token-lookahead scanner; every complaint shows file:line:column and a caret."""

    def __init__(self, text: str, file: str = "<text>") -> None:
        """Start at the first token of `text`; `file` is what messages call it."""
        self.text, self.file = text, file
        self.kind: str = ""
        self.token: str = ""
        self.start: int = 0
        self.end: int = 0
        self.advance()

    def advance(self) -> str:
        """Step to the next token and return the one just left."""
        left, at = self.token, self.end
        match = _TOKEN.match(self.text, at)
        if match and match.lastgroup == "skip":
            at = match.end()
            match = _TOKEN.match(self.text, at)
        self.start = at
        if match:
            self.kind, self.token, self.end = str(match.lastgroup), match[0], match.end()
        elif at >= len(self.text):
            self.kind, self.token, self.end = "end", "", at
        else:
            self.fail(f"unexpected character {self.text[at]!r}")
        return left

    def fail(self, why: str, at: int | None = None) -> NoReturn:
        """Raise ParseError at a text offset (default: the current token)."""
        at = self.start if at is None else at
        line = self.text.count("\n", 0, at) + 1
        begin = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        source = self.text[begin : end if end >= 0 else len(self.text)]
        column = at - begin
        if len(source) > 160:  # keep the caret in sight on very long lines
            cut = max(0, column - 60)
            source, column = source[cut : cut + 160], column - cut
        place = f"{self.file}:{line}:{at - begin + 1}"
        raise ParseError(f"{place}: {why}\n  {source}\n  {' ' * column}^")

    def take(self, want: str) -> None:
        """Step over the token `want`, or complain."""
        if self.token != want:
            found = repr(self.token) if self.token else "the end of the text"
            self.fail(f"expected {want!r}, found {found}")
        self.advance()

    def has(self, want: str) -> bool:
        """Step over the token `want` if it is next; tell whether it was."""
        if self.token != want:
            return False
        self.advance()
        return True

    def word(self, what: str) -> str:
        """Step over an identifier and return it."""
        if self.kind != "word":
            self.fail(f"expected {what}, found {self.token!r}")
        return self.advance()

    def string(self) -> str:
        """Step over a quoted string and return its contents."""
        if self.kind != "string":
            self.fail(f"expected a quoted string, found {self.token!r}")
        return self.unquote(self.advance())

    def unquote(self, token: str) -> str:
        """Decode a quoted token."""
        try:
            return str(json.loads(token))
        except ValueError:
            self.fail(f"bad string {token}")

    def integer(self, what: str = "an integer") -> int:
        """Step over an integer and return it."""
        try:
            number = int(self.token)
        except ValueError:
            self.fail(f"expected {what}, found {self.token!r}")
        self.advance()
        return number

    def value(self) -> object:
        """Read one option value: str, bool, int, float, bytes, None or a tuple of them."""
        kind, start, token = self.kind, self.start, self.token
        if token == "[":
            return tuple(self.items("[", "]", self.value))
        if kind not in ("string", "bytes", "number", "pair", "word"):
            self.fail(f"expected a value, found {token!r}")
        self.advance()
        match kind:
            case "string":
                return self.unquote(token)
            case "bytes":
                return self._hex(token[4:], start)
            case "number":
                return number(token)
            case _:
                return {"true": True, "false": False, "none": None}.get(token, token)

    def _hex(self, digits: str, at: int) -> bytes:
        try:
            return bytes.fromhex(digits)
        except ValueError:
            self.fail("an odd number of hex digits", at)

    def items(self, opening: str, closing: str, one: Callable[[], T]) -> list[T]:
        """Read `opening one, one, ... closing`."""
        self.take(opening)
        found: list[T] = []
        while self.token != closing:
            found.append(one())
            if not self.has(",") and self.token != closing:
                self.fail(f"expected ',' or {closing!r}, found {self.token!r}")
        self.take(closing)
        return found


def number(token: str) -> int | float:
    """Read a number token: int where it is one, else float (nan and inf too)."""
    try:
        return int(token)
    except ValueError:
        return float(token)
