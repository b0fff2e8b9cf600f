"""Which word of a magic's line is being typed, and what it may be, from the magic's own parser. A pure function of text."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .remote_code import Words

# What a word is, by the name of the option or argument that it belongs to.
KINDS = {'connection': 'session', 'target': 'target', 'reference': 'reference', 'push': 'local', 'pull': 'remote'}
OF_MAGICS = {('erp5_disconnect', 'name'): 'session', ('erp5_push', 'names'): 'local', ('erp5_pull', 'names'): 'remote'}
CHOICES = {('erp5_mode', 'mode'): ('remote', 'marked')}
LISTS = ('push', 'pull')   # options with names between commas


@dataclass(frozen=True)
class Wanted:
    """`kind`: option, choice (one of `known`), session, target, reference, local, remote, or '' if nobody knows; `text`: what is there."""

    kind: str
    text: str
    known: tuple[str, ...] = ()


def wanted(words: Words, magics: Mapping[str, Mapping[str, Any]]) -> Wanted | None:
    """What the last word may be. `magics`: of the shell, line and cell."""
    parser = getattr(magics['line'].get(words.magic) or magics['cell'].get(words.magic), 'parser', None)
    if parser is None:
        return None
    *before, text = separated(words.text)
    options: dict[str, argparse.Action] = parser._option_string_actions
    option, equals, value = text.partition('=')
    if equals and option in options:
        return value_of(words.magic, options[option], value)
    previous = options.get(before[-1]) if before else None
    if previous is not None and previous.nargs != 0:
        return value_of(words.magic, previous, text)
    if text.startswith('-'):
        return Wanted('option', text, tuple(name for name in options if name.startswith('--')))
    action = positional(parser, before, options)
    return value_of(words.magic, action, text) if action is not None else None


def separated(text: str) -> list[str]:
    """The words, the last one as far as it has been typed; a quotation mark keeps blanks."""
    words, quote = [''], ''
    for char in text:
        if char in '\'"' and quote in ('', char):
            quote = '' if quote else char
        if char.isspace() and not quote:
            words.append('')
        else:
            words[-1] += char
    return [word for word in words[:-1] if word] + words[-1:]


def positional(parser: Any, before: list[str], options: Mapping[str, argparse.Action]) -> argparse.Action | None:
    """The argument without a name whose turn it is; the last one may take several words."""
    values = {number + 1 for number, word in enumerate(before) if word in options and options[word].nargs != 0}
    count = sum(number not in values and not word.startswith('-') for number, word in enumerate(before))
    actions: list[argparse.Action] = parser._get_positional_actions()
    if count < len(actions):
        return actions[count]
    return actions[-1] if actions and actions[-1].nargs in ('*', '+') else None


def value_of(magic: str, action: argparse.Action, text: str) -> Wanted:
    choices = CHOICES.get((magic, action.dest)) or tuple(map(str, action.choices or ()))
    if choices:
        return Wanted('choice', text, choices)
    kind = OF_MAGICS.get((magic, action.dest)) or KINDS.get(action.dest, '')
    return Wanted(kind, text.rpartition(',')[2] if action.dest in LISTS else text)
