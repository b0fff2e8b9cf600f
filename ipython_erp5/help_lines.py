"""`%erp5 name?` and `%erp5 name??`: help about what is there.

IPython takes the question mark at the end of a line for its own, and the name before it for one of here. This comes before that.
"""

import tokenize

from IPython.core.inputtransformer2 import TokenTransformBase

from .transformer import NAME

Tokens = list[list[tokenize.TokenInfo]]


class RemoteHelp(TokenTransformBase):
    """One of IPython's token transformers: finds one line, and rewrites it."""

    priority = 4   # IPython's own, HelpEnd, has 5

    @classmethod
    def find(cls, tokens_by_line: Tokens) -> 'RemoteHelp | None':
        for line in tokens_by_line:
            tokens = [token for token in line if token.type not in (tokenize.INDENT, tokenize.DEDENT, tokenize.NEWLINE, tokenize.NL,
                                                                    tokenize.COMMENT, tokenize.ENDMARKER)]
            words = [token.string for token in tokens]
            if words[:2] == ['%', NAME] and len(words) > 3 and words[-1] == '?' and tokens[1].end < tokens[2].start:
                return cls(tokens[0].start)
        return None

    def transform(self, lines: list[str]) -> list[str]:
        line = lines[self.start_line]
        question = line[self.start_col:].strip().removeprefix(f'%{NAME}').strip()
        call = f'get_ipython().run_line_magic({NAME!r}, {question!r})\n'
        return [*lines[:self.start_line], line[:self.start_col] + call, *lines[self.start_line + 1:]]
