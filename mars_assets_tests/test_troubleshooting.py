"""The tables of the page on troubleshooting: a row for every message and check, and no row for what the code lacks."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mars_assets
from mars_assets.definitions import defs
from mars_assets_tests.shell import PROJECT

CODE = Path(mars_assets.__file__).parent
PAGE = (PROJECT / "docs/how-to/troubleshooting.md").read_text().partition("## Messages")[2]
CHECKS = {key.name for key in defs.resolve_asset_graph().asset_check_keys}
GAP = "\0"
"""Stands for what a message inserts."""
MOST = 4
"""Messages that the same words may stand for: words that fit more name no cause."""
UNMET = {
    f"{GAP} cannot be cached": "a function of this project returned something of a new type",
    f"no thumbnail of this {GAP}": "no asset draws a picture of such a shape",
}
"""How the messages begin that no user can meet, with the reason."""
_REMEDY = r"(Choose|Correct|Download|Export|Fetch|Restore|Write|materialize)\b[^.:]*"
_PASSED_ON = re.compile(rf"(\w+( {GAP})?:)?[{GAP}\W]*({_REMEDY})?")
"""The form of a message whose cause comes from elsewhere: gaps, perhaps after a line's number or before what to do."""
_TAKES = re.compile(r"(problems|mismatches|warnings)$|(notes\.)?(left_out|unlabelled)\[")
"""What messages are assigned to, beside exceptions: lists, and reasons by image."""
_OF_A_CHECK = ("tuple[list[str], int]", "dg.AssetCheckResult")
"""What functions return that list a check's problems. The check itself has a row."""


class Message(NamedTuple):
    """A message of the code: the place that makes it, and its text with gaps."""

    place: str
    text: str


def texts(node: ast.expr) -> list[str]:
    """Every text that an expression can have, or that elements of a list have."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in parts)]
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return [begin + end for begin in texts(left) for end in texts(right)]
        case ast.IfExp(body=one, orelse=other):
            return texts(one) + texts(other)
        case ast.List(elts=elements):
            return [text for element in elements for text in texts(element)]
        case ast.ListComp(elt=element):
            return texts(element)
    return [GAP]


def made_by(node: ast.AST) -> list[str]:
    """The messages that a call or statement makes: those of exceptions, and of lists of problems or warnings."""
    match node:
        case ast.Call(func=ast.Name("MissingInputError")):  # takes names of assets, and makes its message of them
            return []
        case ast.Call(func=function, args=[first, *_]):
            name = ast.unparse(function)
            is_message = re.search(r"(Error|Failure|super\(\)\.__init__|(problems|mismatches|warnings)\.append)$", name)
            return texts(first) if is_message else []
        case ast.AugAssign(target=target, value=value) | ast.Assign(targets=[target], value=value):
            return texts(value) if _TAKES.match(ast.unparse(target)) else []
    return []


@functools.cache
def messages() -> list[Message]:
    """Every message of the code that states a cause."""
    found = []
    for path in sorted(CODE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        of_checks = {id(node) for check in ast.walk(tree) if is_of_a_check(check) for node in ast.walk(check)}
        for node in ast.walk(tree):
            for text in dict.fromkeys(made_by(node) if id(node) not in of_checks else []):
                if not _PASSED_ON.fullmatch(text):
                    found.append(Message(f"{path.relative_to(CODE)}:{getattr(node, 'lineno', 0)}", text))
    return found


def is_of_a_check(node: ast.AST) -> bool:
    """Whether a function lists the problems for a check."""
    return isinstance(node, ast.FunctionDef) and node.returns is not None and ast.unparse(node.returns) in _OF_A_CHECK


def quoted() -> Iterator[str]:
    """The words in the first column of the tables."""
    for cell in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE):
        yield from re.findall("`(.+?)`", cell)


def fits(words: str, text: str) -> bool:
    """Whether a text has the words, in which ``...`` is anything."""
    return re.search(".*".join(map(re.escape, words.split("..."))), text, re.DOTALL) is not None


def test_every_message_and_check_has_a_row() -> None:
    rows = set(quoted())
    met = [message for message in messages() if not message.text.startswith(tuple(UNMET))]
    assert len(met) > 300
    assert [message for message in met if not any(fits(words, message.text) for words in rows)] == []
    assert rows >= CHECKS


def test_the_words_of_a_row_name_its_cause() -> None:
    for words in quoted():
        places = {message.place for message in messages() if fits(words, message.text)}
        assert len(places) <= MOST, (words, sorted(places))


def test_every_row_is_of_the_code() -> None:
    written = set(CHECKS)
    for path in CODE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                written.update(texts(node))
    assert [words for words in quoted() if not any(fits(words, text) for text in written)] == []


def test_the_messages_that_no_user_can_meet_exist() -> None:
    assert [start for start in UNMET if not any(message.text.startswith(start) for message in messages())] == []
