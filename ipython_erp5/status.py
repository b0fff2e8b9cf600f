"""What a node says of itself, for people: `%erp5_status` and `ipython-erp5 status`.

Lines of facts, then tables: cells that run, other nodes, processes. What a newer node says besides is shown as it comes, what an
older one does not say is left out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .amounts import size
from .client import STATUS, Client
from .connections import Connection
from .credentials import Secret
from .display import fields, table
from .errors import ERP5Error
from .local_node import Node

ANSWER_SECONDS = 10.0
UNITS = (('days', 86400), ('h', 3600), ('min', 60), ('s', 1))  # seconds
CELLS = (('cells', 'run'), ('lost', 'lost'), ('conflicts', 'refused by the database'), ('running', 'running'), ('waiting', 'waiting'))
TOLD = {'node', 'version', 'seconds_up', 'storage', 'stored', 'executors', 'placement', 'idle', 'spare', 'processes', 'nodes',
        'running_cells', *(key for key, _ in CELLS)}


# ---------------------------------------------------------------- the node of a data directory
def described(node: Node) -> str:
    """A running node: what it says of itself as its user, or why it does not, and what is known without it."""
    status, reason = ask(node)
    head = {'url': node.url, 'user': node.user, 'pid': node.pid, 'data directory': node.data_dir}
    if status is None:
        return fields({**head, 'storage': node.storage, 'executors': node.executors, 'does not answer': reason})
    return fields(head) + '\n' + render({key: value for key, value in status.items() if key != 'pid'})


def as_json(data_dir: Path, node: Node | None) -> dict[str, Any]:
    """`runs`, `answers`, `reason`, `status` (None without an answer), and what node.json says of the node."""
    status, reason = (None, '') if node is None else ask(node)
    return {'runs': node is not None, 'answers': status is not None, 'reason': reason, 'status': status,
            **({'data_dir': data_dir} if node is None else asdict(node))}


def ask(node: Node) -> tuple[dict[str, Any] | None, str]:
    """(status, ''), or (None, why there is no answer)."""
    try:
        client = Client(Connection('', node.url, node.user, Secret(node.password()), '', ca_bundle=node.ca_bundle))
        status: dict[str, Any] | None = client.ask(STATUS, {}, ANSWER_SECONDS)
        client.close()
    except ERP5Error as error:
        return None, str(error)
    return status, '' if status is not None else f'{node.url} is another site'


# ---------------------------------------------------------------- what it says
def render(status: Mapping[str, Any]) -> str:
    """All of it."""
    return '\n'.join([fields(facts(status)), *tables(status)])


def facts(status: Mapping[str, Any]) -> dict[str, Any]:
    """One line each."""
    seconds, stored = status.get('seconds_up'), status.get('stored')
    told = {'node': listed(status.get('node'), status.get('version') and f'version {status["version"]}'),
            'up': '' if seconds is None else duration(seconds),
            'storage': listed(status.get('storage'), '' if stored is None else size(stored)),
            'executors': executors(status),
            'cells': listed(*(f'{status[key]:,} {word}' for key, word in CELLS if key in status))}
    others = {key: value for key, value in status.items() if key not in TOLD}
    return {name: value for name, value in {**told, **others}.items() if value != ''}


def listed(*texts: Any) -> str:
    return ', '.join(str(text) for text in texts if text)


def executors(status: Mapping[str, Any]) -> str:
    """`2 at once, sticky: 1 running, 2 spare`"""
    if 'processes' not in status:
        return str(status.get('executors', ''))
    states = Counter(str(process.get('state')) for process in status['processes'])
    now = listed(*(f'{number} {state}' for state, number in sorted(states.items()))) or 'none yet'
    return f'{listed(str(status.get("executors")) + " at once", status.get("placement"))}: {now}'


def duration(seconds: float) -> str:
    """The two largest units: `3 h 12 min`."""
    left, parts = round(seconds), []
    for name, length in UNITS:
        if left >= length:
            parts.append(f'{left // length} {name}')
            left %= length
    return ' '.join(parts[:2]) or '0 s'


# ---------------------------------------------------------------- tables
def tables(status: Mapping[str, Any]) -> Iterator[str]:
    cells = [(cell.get('notebook'), cell.get('user'), duration(cell.get('seconds') or 0), cell.get('request_id'))
             for cell in status.get('running_cells') or ()]
    if cells:
        yield table(('running', 'user', 'for', 'request'), cells)
    nodes = [tuple(node.get(key) for key in ('name', 'url', 'host', 'pid')) for node in status.get('nodes') or ()]
    if nodes:
        yield table(('other node', 'url', 'host', 'pid'), nodes)
    processes = [(process.get('pid'), process.get('state'), process.get('notebook')) for process in status.get('processes') or ()]
    if processes:
        yield table(('process', 'state', 'notebook'), processes)
