r"""Text inside other formats: one function per format, so that a name is printed literally everywhere.

Names come from config files, command lines, folders and datasets, and may contain characters that a format interprets.
Characters that end a line or control a terminal are first replaced by their escapes (`\n`), in every format.

>>> latex("50 % of a_b"), markdown("a|b"), csv("=1+1"), csv("-5.0 [-7.1, -3.0]"), comment("a --> b")
('50 \\% of a\\_b', 'a\\|b', "'=1+1", '"-5.0 [-7.1, -3.0]"', 'a --&gt; b')
"""

import html as _html
import json
import re
import unicodedata
from collections.abc import Iterable

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, changes of writing direction, and characters without a UTF-8 form."""

_NUMBER = r"[+-]?(?:\d[\d,]*\.?\d*|\.\d+|inf|nan)(?:e[+-]?\d+)?"
_PLAIN_NUMBER = re.compile(_NUMBER, re.IGNORECASE)
_WITH_INTERVAL = re.compile(rf"-|{_NUMBER}(?: \[{_NUMBER}, {_NUMBER}\])?", re.IGNORECASE)
_MARKDOWN = re.compile(
    r"[\\|`*<~$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # inside a word it is not emphasis
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
"""LaTeX's math commands, by character."""


def one_line(text: object) -> str:
    r"""Return the text with the escapes (`\n`, `\x1b`) of characters that end a line or control a terminal."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def is_number(text: str) -> bool:
    """Whether a cell is a number and nothing else."""
    return bool(_PLAIN_NUMBER.fullmatch(text))


def html(text: object) -> str:
    """Return the text of an element, or of a quoted attribute."""
    return _html.escape(one_line(text))


def comment(text: object) -> str:
    """Return a part of an HTML or Markdown comment, whose parts are separated by ` | `; `html.unescape` undoes it."""
    return _html.escape(one_line(text), quote=False).replace("|", "&#124;")


def markdown(text: object, *, starts_line: bool = False) -> str:
    """Return the text of a table cell, a heading or a list item (GitHub's Markdown).

    Args:
        text: the text.
        starts_line: whether it is at a position where `#`, `-` or `1.` have a meaning.
    """
    escaped = _MARKDOWN.sub(lambda found: "\\" + found[0], one_line(text))
    if starts_line and _LINE_START.match(escaped):
        digits = len(escaped) - len(escaped.lstrip("0123456789"))
        escaped = f"{escaped[:digits]}\\{escaped[digits:]}"
    return escaped


def latex(text: object) -> str:
    r"""Return the text of a cell or a caption; a leading `[` or `*` is not read as an option of the preceding `\\`.

    The result is ASCII, so every engine prints it; a letter without a LaTeX command is replaced by its escape
    (`\u4e2d`).

    >>> latex("Müller ± 5"), latex("中")
    ('M\\"{u}ller \\ensuremath{\\pm} 5', '\\textbackslash{}u4e2d')
    """
    escaped = "".join(_LATEX.get(character) or _latex_letter(character) for character in one_line(text))
    escaped = escaped.replace("--", "-{}-")
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped[:1] in ("[", "*") else escaped


def _latex_letter(character: str) -> str:
    """The command for a letter beyond ASCII."""
    if character.isascii():
        return character
    if character in _LATEX_SYMBOLS:
        return f"\\ensuremath{{{_LATEX_SYMBOLS[character]}}}"
    base, *accents = unicodedata.normalize("NFD", character)
    if base.isascii() and len(accents) == 1 and accents[0] in _LATEX_ACCENTS:
        return f"\\{_LATEX_ACCENTS[accents[0]]}{{{base}}}"
    return latex(character.encode("ascii", "backslashreplace").decode())


def csv_table(lines: Iterable[Iterable[object]]) -> str:
    """Return the lines of a CSV file."""
    return "".join(",".join(map(csv, line)) + "\n" for line in lines)


def csv(value: object) -> str:
    """Return a field, text or number, of a CSV file whose comments begin with `#`; NaN and None are empty.

    A spreadsheet evaluates text that begins with `=`, `+`, `-` or `@`, so such text gets an apostrophe in front.
    Numbers, with or without an interval, and a dash are unchanged.
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
    """Return JSON for a `<script>`, with everything escaped that HTML or JavaScript would interpret."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def figure(text: object) -> str:
    """Return a label of a figure, in which `$` would begin a formula."""
    return one_line(text).replace("$", r"\$")


def file_name(*names: str) -> str:
    """Return a file name, without suffix, made from names: letters, digits, `_` and `.`, joined by `-`.

    >>> file_name("voc2007 test", "../a/b")
    'voc2007_test-a_b'
    """
    return "-".join(re.sub(r"[^\w.]+", "_", name).strip("_.") or "_" for name in names)[:200]
