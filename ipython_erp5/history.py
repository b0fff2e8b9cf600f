"""The lines of a notebook, as a site tells them: page by page from the newest one, and one that is looked for.

    '', '12', '3f2a' ─► History.find ─► request_id           nothing: what runs, else what has run last
    3-5, limit       ─► History.entries ─► the site, a page at a time
"""

from collections.abc import Callable, Mapping
from typing import Any

from .errors import OptionError

SHORT = 8  # characters of an id that are shown; fewer digits are the number of a line
PAGE = 500  # entries that are asked for at once
Entry = dict[str, Any]


class History:
    """`ask`: the answer of the site to a form; one with an `error` if there is no such notebook yet."""

    def __init__(self, ask: Callable[[Mapping[str, str]], dict[str, Any]]) -> None:
        self.ask = ask

    def entries(self, first: int = 1, last: int = 0, *, limit: int | None = None, outputs: bool = False, unlisted: bool = False
                ) -> list[Entry]:
        """The newest `limit` (None: all) from `first` to `last` (0: the newest), the oldest one first."""
        found: list[Entry] = []
        form = {'first': str(first), 'outputs': str(outputs), 'unlisted': str(unlisted)}
        while limit is None or len(found) < limit:
            many = PAGE if limit is None else min(PAGE, limit - len(found))
            page = self.ask({**form, 'limit': str(many), **({'last': str(last)} if last else {})})
            found[:0] = page.get('entries') or ()
            last = page.get('before') or 0
            if not last:
                break
        return found

    def line(self, number: int, outputs: bool = False) -> Entry:
        """OptionError if there is none."""
        page = self.ask({'first': str(number), 'last': str(number), 'unlisted': 'True', 'outputs': str(outputs)})
        for entry in page.get('entries') or ():
            return dict(entry)
        raise OptionError(f'the notebook has no line {number}: {extent(page)}')

    def find(self, identifier: str = '', running: tuple[str, ...] = ()) -> str:
        """The request_id that is meant: by its beginning, or by the number of its line; '': what runs, else what has ended last.

        `running`: those that this session knows besides. OptionError if there is none, or several.
        """
        if not identifier:
            return self.newest(running)
        page = self.ask({'request_id': identifier})
        if identifier.isdecimal() and (len(identifier) < SHORT or int(identifier) <= int(page.get('lines') or 0)):
            return str(self.line(int(identifier))['request_id'])
        known: list[str] = [page.get('running') or '', *running, *(entry['request_id'] for entry in page.get('entries') or ())]
        found = sorted({request_id for request_id in known if request_id.startswith(identifier)})
        if len(found) == 1:
            return found[0]
        if found:
            raise OptionError(f'several cells have an id that begins with {identifier}: {", ".join(found[:5])}'
                              f'{" and others" if len(found) > 5 else ""}')
        raise OptionError(f'the notebook has no cell {identifier}: {extent(page)}. Expected the number of a line, or an id or the '
                          'beginning of one; %erp5_history lists the lines')

    def newest(self, running: tuple[str, ...]) -> str:
        page = self.ask({'limit': '1'})
        ended = [entry['request_id'] for entry in page.get('entries') or ()]
        for request_id in (page.get('running') or '', *running[-1:], *ended):
            if request_id:
                return str(request_id)
        raise OptionError('no cell has run in this notebook yet')


def extent(page: Mapping[str, Any]) -> str:
    newest = page.get('lines') or 0
    return f'its lines are 1 to {newest}' if newest > 1 else 'it has line 1 only' if newest else 'no cell has run in it yet'
