from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trimtab.errors import RecipeError
from trimtab.fit import module as artefact
from trimtab.passes import Context
from trimtab.passes.train import Train
from trimtab.values.machine import Machine
from trimtab.values.model import Cascade
from trimtab.values.notation import Step
from trimtab.values.registry import registry
from trimtab.values.task import TaskView

HERE = Machine("here", 1)


@pytest.fixture(scope="module")
def view():
    return TaskView(registry("tasks").take("digits")())


@pytest.fixture
def model(view, tmp_path):
    return registry("sources").take("zoo")().open("mlp(width=32)", tmp_path / "zoo", view)


def weights(model):
    return artefact.load(model.main).state_dict()


@pytest.mark.slow
def test_trains_a_copy_and_keeps_its_history(model, view, tmp_path):
    before, shown = weights(model), []
    train = Train(epochs=6, lr=0.01)
    trained = train.apply(
        model, Context(view, tmp_path / "out", HERE, progress=lambda what, share: shown.append(share))
    )
    assert trained.notes["train"]["history"][-1]["accuracy"] > 0.8
    assert trained.main.path == tmp_path / "out" / "main"
    assert trained.facts == model.facts
    assert all(torch.equal(before[name], value) for name, value in weights(model).items())
    assert shown == sorted(shown)
    assert shown[-1] == 1.0


def test_goes_on_after_a_deadline_to_the_same_weights(model, view, tmp_path):
    train, keep = Train(epochs=2), tmp_path / "keep"
    whole = train.apply(model, Context(view, tmp_path / "whole", HERE, seed=7))
    with pytest.raises(TimeoutError):
        train.apply(model, Context(view, tmp_path / "cut", HERE, seed=7, keep=keep, deadline=0.0))

    def stop(what, share):
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.apply(model, Context(view, tmp_path / "broken", HERE, seed=7, keep=keep, progress=stop))
    resumed = train.apply(model, Context(view, tmp_path / "resumed", HERE, seed=7, keep=keep))
    assert resumed.notes["train"]["notes"][0].startswith("resumed at step")
    for name in (artefact.TORCH_FILE, artefact.WEIGHTS_FILE):
        assert (whole.main.path / name).read_bytes() == (resumed.main.path / name).read_bytes()


def test_refuses_a_cascade(model):
    assert Train().refuses(model, HERE) is None
    cascade = replace(model, program=Cascade(("main",), ()))
    assert "a cascade is trained stage by stage" in Train().refuses(cascade, HERE)


def test_expects_seconds_of_steps_on_a_machine_whose_peak_is_known(model, machine):
    assert Train(steps=10).seconds(model.facts, HERE) is None
    assert Train(epochs=3).seconds(model.facts, machine) is None
    short, long = (Train(steps=steps).seconds(model.facts, machine) for steps in (10, 20))
    assert 0 < 2 * short == long


def test_never_chosen_by_the_search_and_says_what_it_depends_on(model):
    assert Train.choices(model.facts, HERE) == ()
    assert Train.uses == {"train", "validation", "seed"}


def test_recipe_text_and_bad_values():
    assert str(Step.parse("train(3, lr=0.1, optimizer=sgd)").build(Train)) == "train(epochs=3, lr=0.1, optimizer='sgd')"
    with pytest.raises(RecipeError, match="optimizer is one of adamw, sgd"):
        Step.parse("train(optimizer='adam')").build(Train)
    assert Path(Train.__module__.replace(".", "/")).name == Train.name() == "train"
