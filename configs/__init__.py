"""The built-in configs, `<experiment>/<name>.yaml`, and groups such as `sampler/`. Installed as `slt.configs`."""
