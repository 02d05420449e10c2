"""The two consoles, and a line for a person."""

from rich.console import Console

OUT = Console()
ERR = Console(stderr=True)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: names of files and settings are not markup, and are not broken."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
