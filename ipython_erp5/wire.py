"""The messages between client and node, and their bytes.

    request     form fields of `POST <site>/Base_executeJupyter`                     Request.form() ─► Request.from_form()
    reply       application/x-ndjson: one message a line, as it happens              encode() ─► decode()
                anything else: the one JSON object of a stock ERP5 site              stock_answer() ─► stock.messages()

A message is a flat JSON object with a `msg_type` of Jupyter's vocabulary. In the order in which they may come:

    keepalive             nothing has happened for a while; `waiting`: for what, if the cell has not begun
    stream                `name` (stdout, stderr), `text`
    display_data          `data` (MIME type -> text, JSON; bytes as base64), `metadata`, `transient` (display_id)
    update_display_data   the same
    clear_output          `wait`
    execute_result        `data`, `metadata`, `execution_count`
    error                 `ename`, `evalue`, `traceback` (lines); at most one
    pull                  `name`, `format` (literal or a serializer's name), `data` (base64), or `reason` why it cannot travel, or `with`:
                          in the bytes of which name it is; of large values also `names`, `sizes`, `kinds` (see `transfer`) and `first`:
                          the number of its first buffer, to be asked for after the end. Of several for a name the last one counts
    context               `saved` (of the variables that the cell used), `deleted` (names), `not_saved` (see `report`), `warnings`
                          (texts), `serializer`; `provided` (all names that the environment provides) only if that has changed
    execute_reply         last, after the commit: `status` (ok, error), `ename`, `evalue`, `committed`, `request_id`, `node`,
                          `execution_count` (the number of the notebook's line), `times` (microseconds); `interrupted` (true) if
                          a KeyboardInterrupt or the end of its time was raised in it, whatever it made of that

The stock object is described in the ERP5 data-notebook protocol; ours always has all nine of its keys.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from .errors import NodeUnavailableError, OptionError, WireError

NDJSON = 'application/x-ndjson'
TYPES = '_jupyter_types_experimental'  # of the metadata of a `complete_reply`: types and signatures of the matches, for front ends
LONGEST = 1e9  # seconds that a cell may ask for: 30 years
Message = dict[str, Any]

# The plain strings with which a stock site answers instead of JSON.
DISABLED = 'The synchronous and unrestricted implementation is not enabled on the server'
UNAUTHORIZED = 'You are not authorized to access the script'
NO_REFERENCE = 'Please set or use reference for the notebook you want to use'


@dataclass(frozen=True)
class Request:
    """One cell on its way. `user` is not a form field: the publisher sets it once it knows who asks. `detached`: it is to run also if
    its client goes while it waits for its turn."""

    python_expression: str = ''
    reference: str = ''
    title: str = ''
    request_reference: bool = False
    store_history: bool = True
    request_id: str = ''
    next_request_id: str = ''
    serializer: str = ''
    push: str = ''
    pull: str = ''
    timeout: str = ''
    detached: bool = False
    user: str = ''

    def form(self) -> dict[str, str]:
        """The form fields, as text; fields with their default value are left out."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self) if field.name != 'user')
        defaults = Request()
        return {name: str(value) for name, value in pairs if value != getattr(defaults, name)}

    @classmethod
    def from_form(cls, form: Mapping[str, Any], user: str = '') -> 'Request':
        """The request in decoded form fields; unknown ones are ignored, as a stock site does. Only text is taken."""
        known = {field.name: form[field.name] for field in fields(cls) if isinstance(form.get(field.name), str)}
        return cls(**{**known, 'user': user,
                      'request_reference': known.get('request_reference') == 'True', 'detached': known.get('detached') == 'True',
                      'store_history': known.get('store_history') != 'False'})


def seconds(text: str, option: str = '--timeout') -> float:
    """The limit of a cell, such as `30` or `1.5`; 0 for no text. OptionError, with the option's name, for anything else."""
    try:
        found = float(text or 0)
    except ValueError:
        found = -1
    if 0 < found <= LONGEST or not text:
        return found
    raise OptionError(f'{option}: expected seconds, such as 30 or 1.5, got {excerpt(text)}')


# ---------------------------------------------------------------- messages
def keepalive(waiting: str = '') -> Message:
    return {'msg_type': 'keepalive', 'waiting': waiting}


def stream(name: str, text: str) -> Message:
    return {'msg_type': 'stream', 'name': name, 'text': text}


def display_data(data: Mapping[str, Any], metadata: Mapping[str, Any], transient: Mapping[str, Any], update: bool = False) -> Message:
    return {'msg_type': 'update_display_data' if update else 'display_data',
            'data': dict(data), 'metadata': dict(metadata), 'transient': dict(transient)}


def clear_output(wait: bool) -> Message:
    return {'msg_type': 'clear_output', 'wait': wait}


def execute_result(data: Mapping[str, Any], metadata: Mapping[str, Any], execution_count: int) -> Message:
    return {'msg_type': 'execute_result', 'data': dict(data), 'metadata': dict(metadata), 'execution_count': execution_count}


def error(ename: str, evalue: str, traceback: Iterable[str]) -> Message:
    return {'msg_type': 'error', 'ename': ename, 'evalue': evalue, 'traceback': list(traceback)}


def pulled(name: str, format: str, data: str) -> Message:
    return {'msg_type': 'pull', 'name': name, 'format': format, 'data': data}


def pulled_with(name: str, other: str) -> Message:
    """A value that is in the bytes of another."""
    return {'msg_type': 'pull', 'name': name, 'with': other}


def not_pulled(name: str, reason: str) -> Message:
    return {'msg_type': 'pull', 'name': name, 'reason': reason}


def context(saved: Iterable[str], deleted: Iterable[str], not_saved: Iterable[Mapping[str, Any]], warnings: Iterable[str],
            serializer: str, provided: Iterable[str] | None = None) -> Message:
    changed = {} if provided is None else {'provided': sorted(provided)}
    return {'msg_type': 'context', 'saved': sorted(saved), 'deleted': sorted(deleted), 'not_saved': [dict(n) for n in not_saved],
            'warnings': list(warnings), 'serializer': serializer, **changed}


def execute_reply(status: str, committed: bool, request_id: str, *, ename: str = '', evalue: str = '', node: str = '',
                  execution_count: int = 0, times: Mapping[str, int] | None = None, interrupted: bool = False) -> Message:
    return {'msg_type': 'execute_reply', 'status': status, 'ename': ename, 'evalue': evalue, 'committed': committed,
            'request_id': request_id, 'node': node, 'execution_count': execution_count, 'times': dict(times or {}),
            **({'interrupted': True} if interrupted else {})}


def failed(request_id: str, ename: str, evalue: str) -> tuple[Message, Message]:
    """The two messages of a cell that raised nothing itself, and has failed."""
    return (error(ename, evalue, [f'{ename}: {evalue}']), execute_reply('error', False, request_id, ename=ename, evalue=evalue))


def lost(request_id: str, cause: str) -> tuple[Message, Message]:
    """The process, node or machine that ran a cell has gone. `cause`: `signal 11 (SIGSEGV)`, `exit 3`, `node gone`."""
    return failed(request_id, 'CellLost', f'lost: {cause}; nothing of it was saved')


def unavailable(request_id: str, reason: str) -> tuple[Message, Message]:
    """The node cannot begin the request now, or say what became of it: it is to be sent again, with the same id."""
    return failed(request_id, NodeUnavailableError.__name__, f'{reason}; it was not begun now')


def refusal(request_id: str) -> tuple[Message, Message]:
    """The id of a request has been used for another cell."""
    return failed(request_id, 'RequestRefused', f'the request_id {request_id} was used before, for another cell: nothing was run')


# ---------------------------------------------------------------- bytes
def encode(message: Message) -> bytes:
    """One line. What JSON does not know (an odd value in a MIME bundle) travels as its `str`."""
    return json.dumps(message, default=str).encode() + b'\n'


def decode(line: bytes | str) -> Message:
    """The message in a line; WireError if it is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise WireError(f'expected a line of {NDJSON}, got {excerpt(line)}') from None
    if not isinstance(message, dict) or not isinstance(message.get('msg_type'), str):
        raise WireError(f'expected a JSON object with a msg_type, got {excerpt(line)}')
    return message


def is_keepalive(line: bytes) -> bool:
    """Of an encoded message, without decoding it."""
    return line.startswith(b'{"msg_type": "keepalive"')


def is_reply(line: bytes) -> bool:
    return line.startswith(b'{"msg_type": "execute_reply"')


def excerpt(text: bytes | str, size: int = 80) -> str:
    """The beginning of what came, for an error text."""
    if isinstance(text, bytes):
        text = text.decode('utf-8', 'replace')
    text = ' '.join(text.split())
    return repr(text if len(text) <= size else text[:size] + '…')


# ---------------------------------------------------------------- the stock answer
HTML, TEXT, PNG = 'text/html', 'text/plain', 'image/png'


def stock_answer(messages: Iterable[Message]) -> dict[str, Any]:
    """The nine keys of a stock ERP5 site, from the messages of one cell. On an error the outputs before it are kept."""
    answer: dict[str, Any] = {'code_result': [], 'print_result': None, 'displayhook_result': {'data': {}, 'metadata': {}},
                              'mime_type': TEXT, 'extra_data_list': [], 'status': 'ok', 'ename': None, 'evalue': None,
                              'traceback': None}
    for message in messages:
        collect = COLLECTORS.get(message['msg_type'])
        if collect is not None:
            collect(answer, message)
    answer['code_result'] = ''.join(answer['code_result'])   # of pieces: 20 MB of text may come line by line
    answer['print_result'] = {'data': {answer['mime_type']: answer['code_result']}, 'metadata': {}}
    return answer


def _collect_stream(answer: dict[str, Any], message: Message) -> None:
    answer['code_result'].append(message['text'])


def _collect_display(answer: dict[str, Any], message: Message) -> None:
    """HTML is text for the official kernel, under its own MIME type; everything else is one more bundle."""
    data = message['data']
    if PNG not in data and HTML in data:
        answer['code_result'].append(data[HTML])
        answer['mime_type'] = HTML
    else:
        answer['extra_data_list'].append({'data': data, 'metadata': message['metadata']})


def _collect_result(answer: dict[str, Any], message: Message) -> None:
    answer['displayhook_result'] = {'data': message['data'], 'metadata': message['metadata']}


def _collect_error(answer: dict[str, Any], message: Message) -> None:
    answer.update(status='error', ename=message['ename'], evalue=message['evalue'], traceback=message['traceback'])


def _collect_context(answer: dict[str, Any], message: Message) -> None:
    """A stock site prints its warnings into the cell's text."""
    notes = [*message['warnings'], *(n['text'] for n in message['not_saved'])]
    answer['code_result'] += [note.rstrip('\n') + '\n' for note in notes]


def _collect_reply(answer: dict[str, Any], message: Message) -> None:
    if message['status'] != 'ok' and answer['status'] == 'ok':
        _collect_error(answer, {**message, 'traceback': [f"{message['ename']}: {message['evalue']}"]})


COLLECTORS = {'stream': _collect_stream, 'display_data': _collect_display, 'execute_result': _collect_result,
              'error': _collect_error, 'context': _collect_context, 'execute_reply': _collect_reply}
