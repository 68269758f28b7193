"""Experiments, one file each: `Config`, `run(config) -> Dataset`, `figure(dataset)`. Installed as `slt.experiments`."""
