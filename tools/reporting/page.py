"""Render pages as HTML. Templates escape everything that is put into them, so no name or id can become markup."""

import pathlib
import re

from tools.reporting.figures import number, readable, with_interval

TEMPLATES = pathlib.Path(__file__).parent / "templates"


def render(template: str, **content: object) -> str:
    """A page as one self-contained HTML text.

    Args:
        template: file name in templates/.
        content: the variables of the template.

    Raises:
        ImportError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("reports need jinja2. Run: pip install -r requirements.txt") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # a misspelt name is an error, not an empty string
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "count": count, "share": share, "readable": readable}
    environment.filters |= {"signed": signed, "interval": interval}
    return environment.get_template(template).render(**content)


def noted(lines: list[str]) -> list[dict]:
    """Lines below a table as notes of the page; those that begin in capitals, such as LEAK, are warnings."""
    return [{"text": line, "warns": bool(re.match("[A-Z]{3}", line))} for line in lines]


def count(value: int) -> str:
    """1234 as 1,234."""
    return f"{value:,}"


def share(value: float | None) -> str:
    """0.0123 as 1.2 %; a dash where undefined."""
    return "—" if value is None else f"{100 * value:.1f} %"


def signed(value: float | None) -> str:
    """A difference with its sign; a dash where undefined."""
    return "—" if value is None else f"{value:+.3f}"


def interval(values: dict, key: str = "auroc") -> str:
    """A value of a metrics file and its interval: 0.873 [0.851, 0.894]."""
    return with_interval(values[key], values["low"], values["high"])
