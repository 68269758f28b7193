"""Clusters of draws: by density (HDBSCAN), by a length below which points are one, and of levels with gaps between."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import DBSCAN, HDBSCAN

from slt.typing import InputError

ACCOUNTED = 0.999  # of the variance, by the principal axes that are kept


class Clusters(NamedTuple):
    """label [s]: 0 .. k - 1 by falling size, -1 for points of no cluster; size [k]; medoid [k]: the row of the point
    nearest to each cluster's mean; spread [k]: root mean square distance from that mean.
    """

    label: Int[np.ndarray, " s"]
    size: Int[np.ndarray, " k"]
    medoid: Int[np.ndarray, " k"]
    spread: Float[np.ndarray, " k"]


def principal(points: Float[np.ndarray, "s p"], most: int = 16) -> Float[np.ndarray, "s q"]:
    """The points on their principal axes: as many as hold 99.9 per cent of the variance, at most `most`; unscaled."""
    centred = points - points.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    held = np.cumsum(np.square(singular))
    if held[-1] == 0:
        return centred[:, :1]
    count = min(most, int(np.searchsorted(held, ACCOUNTED * held[-1])) + 1)
    return centred @ axes[:count].T


def clusters(
    points: Float[np.ndarray, "s p"], *, least: int = 5, length: float | None = None, most_axes: int = 16
) -> Clusters:
    """Clusters among points [s, p], compared by Euclidean distance on their principal axes.

    length: points that a chain of steps no longer than this connects are one cluster (single linkage): for points whose
    own scatter is known to be less, such as the ends of descents. None: by density, HDBSCAN (Campello et al. 2013) with
    clusters of at least `least` points, one cluster allowed: for draws. Clusters of fewer than `least` points are
    noise. InputError for points that are not finite.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or not points.size:
        raise InputError("points", points.shape, "needs points [s, p]")
    if not np.isfinite(points).all():
        raise InputError("points", "not finite", "leave out what diverged")
    if least < 1:
        raise InputError("least", least, "must be at least 1")
    if len(points) < max(2, least):
        return _ranked(points, np.full(len(points), -1 if len(points) < least else 0), least)
    if length is not None:
        if not length > 0:
            raise InputError("length", length, "must be positive")
        return _ranked(points, DBSCAN(eps=length, min_samples=1).fit(points).labels_, least)
    seen = principal(points, most_axes)
    scale = np.sqrt(np.square(seen).sum(axis=1).mean())
    if scale == 0:
        return _ranked(points, np.zeros(len(points), int), least)
    label = HDBSCAN(min_cluster_size=max(2, least), allow_single_cluster=True, copy=True).fit(seen / scale).labels_  # pyright: ignore[reportArgumentType]
    if label.max() <= 0:  # where only the root is chosen, HDBSCAN keeps its densest core and calls the rest noise
        label = np.zeros(len(points), int)
    return _ranked(points, label, least)


def levels(values: Float[np.ndarray, " s"], gap: float) -> Int[np.ndarray, " s"]:
    """The number, from the lowest up, of the level that each value belongs to: neighbours within `gap` share one."""
    order = np.argsort(values, kind="stable")
    steps = np.diff(values[order]) > gap
    label = np.empty(len(values), np.int64)
    label[order] = np.concatenate([[0], np.cumsum(steps)])
    return label


def _ranked(points: np.ndarray, label: np.ndarray, least: int) -> Clusters:
    """Clusters by falling size (ties by first appearance), those too small made noise."""
    found, first, counts = np.unique(label[label >= 0], return_index=True, return_counts=True)
    keep = counts >= least
    found, first, counts = found[keep], first[keep], counts[keep]
    order = np.lexsort((first, -counts))
    renamed = np.full(len(label), -1, np.int64)
    medoid, spread = np.zeros(len(order), np.int64), np.zeros(len(order))
    for new, old in enumerate(found[order]):
        members = np.flatnonzero(label == old)
        renamed[members] = new
        away = np.linalg.norm(points[members] - points[members].mean(axis=0), axis=1)
        medoid[new], spread[new] = members[np.argmin(away)], np.sqrt(np.mean(np.square(away)))
    return Clusters(renamed, counts[order].astype(np.int64), medoid, spread)
