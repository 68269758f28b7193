"""From a run's datasets to named quantities with errors: what every run reports whatever its experiment."""

from collections.abc import Mapping

import xarray as xr

from slt.analysis import changes
from slt.analysis.draws import SEED, Draws
from slt.typing import Quantity

__all__ = ["SEED", "Draws", "summarise", "summarise_part"]


def summarise(tree: xr.DataTree | xr.Dataset, orbits: Mapping[str, str] | None = None) -> dict[str, Quantity]:
    """The quantities of all parts of a run; those of parts other than "main" carry the prefix "<part>.".

    A single dataset (as `slt.sweep` gives) counts as the main part. See `summarise_part` for the names and orbits.
    """
    if isinstance(tree, xr.Dataset):
        return summarise_part(tree, orbits)
    found: dict[str, Quantity] = {}
    for name, node in tree.children.items():
        prefix = "" if name == "main" else f"{name}."
        found |= {f"{prefix}{key}": quantity for key, quantity in summarise_part(node.to_dataset(), orbits).items()}
    return found


def summarise_part(data: xr.Dataset, orbits: Mapping[str, str] | None = None) -> dict[str, Quantity]:
    """The quantities of one part.

    loss = E[L_n], llc = n beta (E[L_n] - L_n(w*)) at the lowest minimum known, heat_capacity = (n beta)^2 Var(L_n),
    rhat and ess of the loss, acceptance; with phases: mass[P] (ladders, whose chains move) or occupancy[P] (others:
    where they are, not what the posterior weighs), loss[P], llc[P] about the phase's own minimum, rhat[P],
    ess[P], dwell[P] in draws; with ladders that reach 0: free_energy (thermodynamic integration), free_energy_mbar and
    their difference; with ladders and phases: critical_t[a->b] (critical_n, ...) where the leading phase changes; with
    enough points and chains: change_t (change_n, ...) and false_alarm, where the curves of the whole change, whatever
    the phases (`slt.change_points`).

    orbits: phases that are mirror images of one another under a symmetry of the model, by name -> the name of all of
    them together, which is what crosses: by itself each of them would lead by chance.
    """
    view = Draws(data)
    found = view.over_all()
    if view.names:
        found |= view.by_phase()
    if view.laddered:
        found |= view.ladders()
        if view.names:
            found |= view.critical(orbits)
    return found | changes.quantities(view)
