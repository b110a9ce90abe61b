"""Devices and hosts: the one reader of their counts.

A host is one process of a run, of which there may be several with devices of their own. All run the same code in the
same order; where one alone must decide or write it is host 0, and the others are told (docs/hosts.md).

devices   one mesh with the axes ("data", "fsdp", "tensor"), and arrays on it
hosts     what hosts tell one another
joining   how they come together, and part
"""

from rewardscale.mesh.devices import (
    AXES,
    BATCH_AXES,
    attached,
    bf16_peak,
    check_rows,
    describe,
    fitted,
    make_mesh,
    peak_flops,
    place,
    place_inputs,
    place_shares,
    platform,
    share,
)
from rewardscale.mesh.hosts import (
    Ballot,
    agreed,
    check_same,
    handed,
    host_zero,
    hosts,
    locked,
    new_directory,
    once,
    together,
    vote,
)
from rewardscale.mesh.joining import HostsApart, cluster, initialize, joined, leave

__all__ = [
    "AXES",
    "BATCH_AXES",
    "Ballot",
    "HostsApart",
    "agreed",
    "attached",
    "bf16_peak",
    "check_rows",
    "check_same",
    "cluster",
    "describe",
    "fitted",
    "handed",
    "host_zero",
    "hosts",
    "initialize",
    "joined",
    "leave",
    "locked",
    "make_mesh",
    "new_directory",
    "once",
    "peak_flops",
    "place",
    "place_inputs",
    "place_shares",
    "platform",
    "share",
    "together",
    "vote",
]
