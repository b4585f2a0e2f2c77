"""[services.NAME]: web services that a tunnel reaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vmctl.domain.errors import InvalidInput
from vmctl.domain.settings.toml_values import (
    check_folder,
    check_name,
    check_table,
    check_type,
    refuse_unknown,
)

TENSORBOARD_PORT = 8898
JUPYTER_PORT = 8888


class ServiceSettings(NamedTuple):
    """A web service on the VM that a tunnel reaches; `{port}` stands in its command."""

    name: str
    command: str
    port: int
    directory: str = ""
    token: bool = False


DEFAULT_SERVICES: Mapping[str, ServiceSettings] = {
    "tensorboard": ServiceSettings(
        name="tensorboard",
        command="tensorboard --logdir runs --port {port} --host 127.0.0.1",
        port=TENSORBOARD_PORT,
    ),
    "jupyter": ServiceSettings(
        name="jupyter",
        command="jupyter lab --no-browser --ip {ip} --port {port} --ServerApp.port_retries=0",
        port=JUPYTER_PORT,
        token=True,
    ),
}


def parse_services(value: object, file: str) -> dict[str, ServiceSettings]:
    """The file's [services] and the built-in ones; raises InvalidInput that names the key."""
    services = dict(DEFAULT_SERVICES)
    for name, given in check_table(value, "services", file).items():
        prefix = f"services.{check_name(name, 'service', file)}"
        table = check_table(given, prefix, file)
        known = {"port", "command", "directory", "token"}
        refuse_unknown(table, known, file=file, prefix=f"{prefix}.")
        base = services.get(name)
        if base is None and not {"port", "command"} <= table.keys():
            raise InvalidInput(
                f"The service '{name}' in {file} needs both a port and a command.",
                hint=f'Add to [{prefix}]: port = 8080, command = "… --port {{port}}"',
            )
        base = base or ServiceSettings(name=name, command="", port=0)
        port = check_type(table.get("port", base.port), int, f"{prefix}.port", file)
        if not 1 <= port <= 65535:
            raise InvalidInput(
                f"{prefix}.port in {file} must be from 1 to 65535, not {port}.",
                hint="Such as: port = 8080",
            )
        services[name] = ServiceSettings(
            name=name,
            command=check_type(table.get("command", base.command), str, f"{prefix}.command", file),
            port=port,
            directory=check_folder(
                table.get("directory", base.directory), f"{prefix}.directory", file
            ),
            token=check_type(table.get("token", base.token), bool, f"{prefix}.token", file),
        )
    return services
