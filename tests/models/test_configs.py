"""configs/model: every built-in model has a ready config that names every argument at its default."""

import inspect
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import configs
from slt.config.nodes import instantiate, locate
from slt.model import Model

FILES = sorted((Path(configs.__file__).parent / "model").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_config_gives_the_default_model(file: Path) -> None:
    node = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(node, dict)
    model = instantiate(node, "model")
    assert isinstance(model, Model)
    make = locate(node["_target_"], "model")
    assert model == make(), "a config shows the defaults"
    assert set(node) - {"_target_"} == set(inspect.signature(make).parameters), "it lists every argument"
    text = file.read_text()
    assert text.startswith("# "), "the first line says what the model is"
    for control in model.controls:
        assert control in text, f"the control {control} is named"


def test_every_model_has_a_config() -> None:
    targets = {OmegaConf.load(file)["_target_"].rsplit(".", 1)[0] for file in FILES}  # pyright: ignore[reportCallIssue, reportArgumentType]
    models = Path(configs.__file__).parent.parent / "slt" / "models"
    assert targets == {f"slt.models.{path.stem}" for path in models.glob("[!_]*.py")}
