"""Everything that one emulated cloud consists of, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..clock import Clock
from ..faults.breakpoints import Breakpoints
from ..faults.faults import Faults
from ..storage.objects import Storage
from ..store import Store
from .billing import Billing
from .catalog import Catalog
from .firewall import SshFirewall
from .machine_host import AsyncMachineHost
from .operations import Operations
from .quotas import Quotas

DEFAULT_PROJECT = "vmctl-local"


@dataclass(frozen=True, slots=True)
class Cloud:
    """The parts of the cloud; all of them belong to the server's event loop."""

    clock: Clock
    store: Store
    catalog: Catalog
    quotas: Quotas
    faults: Faults
    operations: Operations
    machines: AsyncMachineHost
    firewall: SshFirewall
    billing: Billing
    storage: Storage
    breakpoints: Breakpoints = field(default_factory=Breakpoints)
