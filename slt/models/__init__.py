"""The built-in models, one file each with `make(...) -> Model`; files that begin with _ hold what several share."""
