"""The local end of a push or a pull in IPython: names of the shell's own variables, and one line about what has moved.

    --push a,b ─► options(): their values, or an error before anything is sent ─► Session.execute(push=…, pull=…)
    the shell's variables ◄─ arrived() ◄─ Reply.values, once all of them have come
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell

from .amounts import size
from .errors import OptionError, did_you_mean
from .values import names_in, size_of

if TYPE_CHECKING:
    from .reply import Reply


def options(shell: InteractiveShell, push: str | Iterable[str] | None, pull: str | Iterable[str] | None) -> dict[str, Any]:
    """For `Session.execute`; OptionError for a name that is none, or that no local variable has."""
    sent, wanted = names_in(push or ()), names_in(pull or ())
    for name in sent:
        if name not in shell.user_ns:
            known = shell.user_ns.keys() - shell.user_ns_hidden.keys()
            raise OptionError(f'there is no local variable {name!r}{did_you_mean(name, known)} Nothing was sent or run')
    found: dict[str, Any] = {'push': {name: shell.user_ns[name] for name in sent}} if sent else {}
    return {**found, 'pull': wanted} if wanted else found


def arrived(shell: InteractiveShell, reply: 'Reply', pushed: Iterable[str]) -> str:
    """What was pulled becomes local variables, but `_`: see `last`. The lines that say what has moved."""
    shell.push({name: value for name, value in reply.values.items() if name != '_'})  # type: ignore[no-untyped-call]
    received = sum(size_of(message) for message in reply.pulled.values())
    return line('Pushed', pushed, reply.sent) + line('Pulled', reply.values, received)


def last(reply: 'Reply', shown: Any) -> Any:
    """What a magic gives, which IPython makes `_`: the value of `_` if it was pulled, else how the last value looks there.

    A `_` that somebody else has set IPython would leave alone from then on.
    """
    return reply.values.get('_', shown)


def line(verb: str, names: Iterable[str], count: int) -> str:
    listed = ', '.join(names)
    return f'{verb} {listed}: {size(count)}\n' if listed else ''
