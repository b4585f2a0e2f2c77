"""schema: the JSON Schema of each command's --json document."""

from __future__ import annotations

from typing import Annotated

from vmctl.cli.completion import DOCUMENTS
from vmctl.cli.options import Context, Panel
from vmctl.cli.parameters import argument

PANEL = Panel("Reference")


@PANEL.command("schema", examples="vmctl schema\nvmctl schema up")
def schema(
    context: Context,
    words: Annotated[
        list[str] | None,
        argument(
            metavar="[COMMAND]",
            help="A command, or 'error'; without one: list all names.",
            autocompletion=DOCUMENTS,
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of what a command prints under --json.

    Later versions may add fields; existing fields keep their name and type.
    """
    from vmctl.cli import terminal
    from vmctl.cli.json_results import RESULTS, schema_of
    from vmctl.domain.errors import NotFound
    from vmctl.domain.names import find_nearest

    name = " ".join(words or ())
    names = [*RESULTS, "error"]
    if not name:
        if context.json:
            terminal.document(names)
        else:
            terminal.line("\n".join(names))
        return
    if name not in names:
        close = find_nearest(name, names)
        hint = f"vmctl schema {close}" if close else "List them: vmctl schema"
        raise NotFound(f"No command '{name}' prints a JSON document.", hint=hint)
    terminal.document(schema_of(name), indent=2)
