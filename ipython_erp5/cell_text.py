"""The statements at the top level of a cell, in either Python: a pure function of its text.

    @once                       ─►  Unit(0, '@once\ndef f():\n    return 1', ('once', 'def', 'f', 'return', '1'))
    def f():
        return 1
    x = 2; print x              ─►  Unit(3, 'x = 2', ('x', '2')), Unit(3, 'print x', ('print', 'x'))

Python 2 is understood as far as strings, brackets, semicolons and indentation go, which is all that this needs. Where the text is
Python 3, what was found is what `ast` finds; where it is not understood, nothing is found.
"""

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TOKEN = re.compile(r'''
    (?P<string>[bBrRuUfF]{0,3}(?:"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'|"(?:\\.|[^\\"\n])*"|'(?:\\.|[^\\'\n])*'))
  | (?P<comment>\#[^\n]*) | (?P<joined>\\\n) | (?P<newline>\n) | (?P<blank>[ \t\f]+) | (?P<word>\w+)
  | (?P<open>[(\[{]) | (?P<close>[)\]}]) | (?P<end>;) | (?P<bad>["']) | (?P<other>.)''', re.X | re.S)
COMPOUND = {'if', 'for', 'while', 'with', 'try', 'def', 'class', 'async', 'match'}
CONTINUES = {'elif', 'else', 'except', 'finally'}


@dataclass(frozen=True)
class Unit:
    """A statement of the top level: its first row (from 0), its text, the words in it, and its tree if it is Python 3."""

    row: int
    text: str
    words: tuple[str, ...]

    def statement(self) -> ast.stmt | None:
        """The statement, without its place in the cell; None where it is Python 2, or none."""
        body = tree_of(self.text).body
        return body[0] if len(body) == 1 else None

    def function(self) -> str:
        """The name of the function that it is; '' for any other statement."""
        if self.words[:1] == ('def',) or self.text.startswith('@') and 'def' in self.words:
            return (*self.words[self.words.index('def') + 1:], '')[0]
        return ''


def tree_of(source: str) -> ast.Module:
    """The tree; an empty one if it is not Python 3."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return ast.Module([], [])


def units_of(source: str) -> list[Unit]:
    """The statements at column 0, in order; [] if the text is not understood."""
    units: list[Unit] = []
    lines = source.split('\n')
    try:
        for row, text, words, ends in logical_lines(source):
            last = units[-1] if units else None
            if text[:1] in ' \t\f' or words[:1] and words[0] in CONTINUES or last is not None and is_decorated(last):
                if last is None:
                    return []
                gap = lines[last.row + last.text.count('\n') + 1:row]   # blank lines, comments
                units[-1] = Unit(last.row, '\n'.join([last.text, *gap, text]), last.words + words)
            else:
                units += pieces(row, text, words, ends)
    except ValueError:
        return []
    tree = tree_of(source)
    rows = [min([node.lineno, *(decorator.lineno for decorator in getattr(node, 'decorator_list', ()))]) - 1 for node in tree.body]
    return units if not rows or rows == [unit.row for unit in units] else []


def is_decorated(unit: Unit) -> bool:
    """Whether only the decorators of something have been read yet."""
    return unit.text.startswith('@') and not {'def', 'class'} & set(unit.words)


Logical = tuple[int, str, tuple[str, ...], tuple[int, ...]]


def logical_lines(source: str) -> Iterator[Logical]:
    """(row, text, words, places of its semicolons) of each logical line that has code; ValueError for what has no end."""
    start, row, depth = 0, 0, 0
    words: list[str] = []
    ends: list[int] = []
    code = False
    for token in TOKEN.finditer(source + '\n'):
        kind = token.lastgroup
        depth += (kind == 'open') - (kind == 'close')
        if kind == 'bad' or depth < 0:
            raise ValueError('a string or a bracket has no other end')
        if kind == 'word':
            words.append(token[0])
        elif kind == 'end' and not depth:
            ends.append(token.start() - start)
        code |= kind not in ('comment', 'newline', 'blank', 'joined')
        if kind == 'newline' and not depth:
            text = source[start:token.start()]
            if code:
                yield row, text, tuple(words), tuple(ends)
            row += 1 + text.count('\n')
            start, words, ends, code = token.end(), [], [], False
    if depth:
        raise ValueError('a bracket is not closed')


def pieces(row: int, text: str, words: Sequence[str], ends: Sequence[int]) -> Iterator[Unit]:
    """The statements of a logical line at column 0: `a; b` are two, the body of `if x: a; b` is not looked at."""
    compound = text.startswith('@') or words[:1] and words[0] in COMPOUND and text.startswith(words[0])
    start = 0
    for end in (*(ends if not compound else ()), len(text)):
        piece = text[start:end].strip(' \t\f')
        if piece and not piece.startswith('#'):
            before = text[:start] + text[start:end][:len(text[start:end]) - len(text[start:end].lstrip(' \t\f'))]
            yield Unit(row + before.count('\n'), piece, tuple(words_of(piece)))
        start = end + 1


def words_of(text: str) -> Iterator[str]:
    """The names and keywords of a text that are code."""
    return (token[0] for token in TOKEN.finditer(text) if token.lastgroup == 'word')
