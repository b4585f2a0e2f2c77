"""Options and arguments as the commands declare them, without typer.

A short command takes less time than typer's import: what reads its line (plain_line.py) and typer
both take a parameter from its one declaration.
"""

from __future__ import annotations

import typing
from typing import Annotated, Any, NamedTuple


class Parameter(NamedTuple):
    """What stands in `Annotated`: typer.Option's or typer.Argument's words and settings."""

    is_option: bool
    names: tuple[str, ...]
    settings: dict[str, Any]


def option(*names: str, **settings: Any) -> Parameter:
    """As `typer.Option`."""
    return Parameter(True, names, settings)


def argument(**settings: Any) -> Parameter:
    """As `typer.Argument`."""
    return Parameter(False, (), settings)


def split_annotation(annotation: Any) -> tuple[Any, Parameter | None]:
    """The type, and the parameter that it is annotated with."""
    kind, *more = typing.get_args(annotation) if is_annotated(annotation) else (annotation,)
    return kind, next((item for item in more if isinstance(item, Parameter)), None)


def for_typer(annotation: Any) -> Any:
    """The annotation with typer's own parameter instead of ours."""
    kind, parameter = split_annotation(annotation)
    if parameter is None:
        return annotation
    import typer

    make: Any = typer.Option if parameter.is_option else typer.Argument
    return Annotated[kind, make(*parameter.names, **parameter.settings)]


def is_annotated(annotation: Any) -> bool:
    """Whether it is `Annotated[…]`."""
    return typing.get_origin(annotation) is Annotated
