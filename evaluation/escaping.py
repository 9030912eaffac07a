r"""Text inside other formats: one function for each, so that a name means itself wherever it is printed.

Names come from config files, command lines, folders and datasets; any of them may hold what a format reads as its own.
Characters that end a line or steer a terminal are first shown as they would be typed (`\n`), in every format.

>>> latex("50 % of a_b"), markdown("a|b"), csv("=1+1"), csv("-5.0 [-7.1, -3.0]"), comment("a --> b")
('50 \\% of a\\_b', 'a\\|b', "'=1+1", '"-5.0 [-7.1, -3.0]"', 'a --&gt; b')
"""

import html as _html
import json
import re
import unicodedata
from collections.abc import Iterable

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, ends of lines, changes of writing direction, and what has no UTF-8 form."""

_NUMBER = r"[+-]?(?:\d[\d,]*\.?\d*|\.\d+|inf|nan)(?:e[+-]?\d+)?"
_PLAIN_NUMBER = re.compile(_NUMBER, re.IGNORECASE)
_WITH_INTERVAL = re.compile(rf"-|{_NUMBER}(?: \[{_NUMBER}, {_NUMBER}\])?", re.IGNORECASE)
_MARKDOWN = re.compile(
    r"[\\|`*<~$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # within a word it is no emphasis
    r"|\](?=[(\[:])"
    r"|&(?=#?\w+;)"
)
_LINE_START = re.compile(r"(?=[#>+-](?: |$)|\d+[.)](?: |$)|=+$|-+$)")
_LATEX = {
    **{character: "\\" + character for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\dots{}",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "\u00a0": "~",
}
_LATEX_ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0308\u030a\u030c\u0327\u0304\u0306\u0307\u030b", "`'^~\"rvc=u.H", strict=True)
)
_LATEX_SYMBOLS = {
    "±": r"\pm",
    "×": r"\times",
    "·": r"\cdot",
    "≤": r"\leq",
    "≥": r"\geq",
    "≠": r"\neq",
    "≈": r"\approx",
    "→": r"\rightarrow",
    "←": r"\leftarrow",
    "∞": r"\infty",
    "∩": r"\cap",
    "∪": r"\cup",
    "°": r"^{\circ}",
    "²": "^{2}",
    "³": "^{3}",
    "½": r"\frac12",
    "√": r"\surd",
    "Σ": r"\Sigma",
    "Δ": r"\Delta",
    "Ω": r"\Omega",
    "α": r"\alpha",
    "β": r"\beta",
    "γ": r"\gamma",
    "δ": r"\delta",
    "ε": r"\epsilon",
    "λ": r"\lambda",
    "µ": r"\mu",
    "μ": r"\mu",
    "π": r"\pi",
    "σ": r"\sigma",
    "τ": r"\tau",
    "φ": r"\phi",
    "ω": r"\omega",
}
"""In mathematics."""


def one_line(text: object) -> str:
    r"""Return text that stays on its line and does not steer a terminal: `\n`, `\x1b` in place of the characters."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def is_number(text: str) -> bool:
    """Whether a cell is a number and nothing else."""
    return bool(_PLAIN_NUMBER.fullmatch(text))


def html(text: object) -> str:
    """Text of an element, or of an attribute in quotes."""
    return _html.escape(one_line(text))


def comment(text: object) -> str:
    """A part of a comment of HTML or Markdown, whose parts are set apart by ` | `; `html.unescape` undoes it."""
    return _html.escape(one_line(text), quote=False).replace("|", "&#124;")


def markdown(text: object, *, starts_line: bool = False) -> str:
    """Text of a table's cell, a heading or a list item (GitHub's Markdown).

    Args:
        text: the text.
        starts_line: whether it stands where `#`, `-` or `1.` begin something.
    """
    escaped = _MARKDOWN.sub(lambda found: "\\" + found[0], one_line(text))
    if starts_line and _LINE_START.match(escaped):
        digits = len(escaped) - len(escaped.lstrip("0123456789"))
        escaped = f"{escaped[:digits]}\\{escaped[digits:]}"
    return escaped


def latex(text: object) -> str:
    r"""Text of a cell or a caption; what begins with `[` or `*` is no option of the `\\` before it.

    It is ASCII, so that every engine prints it; a letter that none of LaTeX's commands stands for comes as it would be
    typed (`\u4e2d`).

    >>> latex("Müller ± 5"), latex("中")
    ('M\\"{u}ller \\ensuremath{\\pm} 5', '\\textbackslash{}u4e2d')
    """
    escaped = "".join(_LATEX.get(character) or _latex_letter(character) for character in one_line(text))
    escaped = escaped.replace("--", "-{}-")
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped[:1] in ("[", "*") else escaped


def _latex_letter(character: str) -> str:
    """A letter beyond ASCII by the command that prints it."""
    if character.isascii():
        return character
    if character in _LATEX_SYMBOLS:
        return f"\\ensuremath{{{_LATEX_SYMBOLS[character]}}}"
    base, *accents = unicodedata.normalize("NFD", character)
    if base.isascii() and len(accents) == 1 and accents[0] in _LATEX_ACCENTS:
        return f"\\{_LATEX_ACCENTS[accents[0]]}{{{base}}}"
    return latex(character.encode("ascii", "backslashreplace").decode())


def csv_table(lines: Iterable[Iterable[object]]) -> str:
    """A CSV file's lines."""
    return "".join(",".join(map(csv, line)) + "\n" for line in lines)


def csv(value: object) -> str:
    """A field of a CSV file whose comments begin with `#`, of text as of numbers; NaN and None are empty.

    A spreadsheet computes what begins with `=`, `+`, `-` or `@`: such a text gets an apostrophe before it. Numbers,
    with or without an interval, and a dash stay as they are.
    """
    if value is None or value != value:
        return ""
    text = str(value)
    if text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") and not _WITH_INTERVAL.fullmatch(text):
        text = f"'{text}"
    if text != text.strip() or any(character in text for character in ',"#\r\n'):
        text = '"' + text.replace('"', '""') + '"'
    return text.encode("utf-8", "backslashreplace").decode()


def script(data: object) -> str:
    """JSON that may stand in a `<script>`: what HTML or JavaScript would read as its own is escaped."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def figure(text: object) -> str:
    """A label of a figure, in which `$` would begin a formula."""
    return one_line(text).replace("$", r"\$")


def file_name(*names: str) -> str:
    """A file's name, without ending, made of names: letters, digits, `_` and `.`, joined by `-`.

    >>> file_name("voc2007 test", "../a/b")
    'voc2007_test-a_b'
    """
    return "-".join(re.sub(r"[^\w.]+", "_", name).strip("_.") or "_" for name in names)[:200]
