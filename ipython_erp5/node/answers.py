"""What a published method reads out of a request of Zope, and what it answers.

Who may not use a notebook gets an HTTP 403, what is not there is a 404: a JSON object with an `error`.
"""

import json
from typing import Any

from . import users
from .notebook import DataNotebook


def node(REQUEST: Any) -> Any:
    """The node that serves this request: the publisher puts it into the WSGI environment."""
    return REQUEST.environ['ipython_erp5.node']


def text(REQUEST: Any, name: str) -> str:
    value = REQUEST.form.get(name, '')
    return value if isinstance(value, str) else ''


def number(REQUEST: Any, name: str, most: int) -> int:
    """A number of the form from 0 to `most`, which it is if it is none."""
    value = text(REQUEST, name)
    return min(int(value), most) if value.isdecimal() and len(value) < 10 else most


def barred(REQUEST: Any, notebook: DataNotebook | None) -> str:
    """The answer to a user who may not use the notebook; '' to one who may."""
    reason = reason_to_refuse(REQUEST, notebook)
    return failure(REQUEST, 403, reason) if reason else ''


def reason_to_refuse(REQUEST: Any, notebook: DataNotebook | None) -> str:
    user = REQUEST['AUTHENTICATED_USER']
    return '' if notebook is None or users.may_use(user, notebook) else users.refusal(user, notebook)


def failure(REQUEST: Any, status: int, reason: str) -> str:
    REQUEST.RESPONSE.setStatus(status)
    return answer(REQUEST, {'error': reason})


def answer(REQUEST: Any, value: Any) -> str:
    REQUEST.RESPONSE.setHeader('Content-Type', 'application/json')
    return json.dumps(value)
