"""What a recipe means: its steps as passes and a runtime, checked to fit before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.errors import MissingExtra, RecipeError
from trimtab.passes import Pass
from trimtab.runtimes import Runtime
from trimtab.values.notation import Recipe, Step, split
from trimtab.values.registry import registry

__all__ = ["Bound", "Recipe", "Step", "bind", "bind_runtime", "check_formats", "split_model"]


@dataclass(frozen=True)
class Bound:
    """A recipe whose names are known and whose arguments fit."""

    passes: tuple[Pass, ...]
    runtime: Runtime | None

    @property
    def recipe(self) -> Recipe:
        """The canonical recipe: arguments by name, defaults left out."""
        steps = tuple(Step.parse(str(step)) for step in self.passes)
        return Recipe(steps, None if self.runtime is None else Step.parse(str(self.runtime)))

    def __str__(self) -> str:
        chain = " | ".join(map(str, self.passes))
        return chain if self.runtime is None else f"{chain} @ {self.runtime}".strip()


def bind(recipe: Recipe | str) -> Bound:
    """Look up every name and check every argument; raises RecipeError, UnknownName or MissingExtra."""
    if isinstance(recipe, str):
        recipe = Recipe.parse(recipe)
    passes = tuple(_bind_step("passes", step, number, recipe) for number, step in enumerate(recipe.steps, 1))
    return Bound(passes, bind_runtime(recipe.runtime) if recipe.runtime else None)


def bind_runtime(step: Step | str) -> Runtime:
    """Look up a runtime such as `onnxruntime(threads=1)`."""
    if isinstance(step, str):
        step = Step.parse(step)
    runtime: Runtime = step.build(registry("runtimes").take(step.name))
    return runtime


def _bind_step(kind: str, step: Step, number: int, recipe: Recipe) -> Pass:
    try:
        thing: Pass = step.build(registry(kind).take(step.name))
    except RecipeError as error:
        raise RecipeError(f"step {number}, {error} in recipe: {recipe}") from error
    return thing


def check_formats(bound: Bound, start: str) -> str:
    """Follow the formats from `start`; return the last, or raise RecipeError that names the step."""
    given, giver = start, "the model"
    for number, step in enumerate(bound.passes, 1):
        if given not in step.formats:
            takes = " or ".join(repr(name) for name in step.formats)
            raise RecipeError(
                f"step {number}, {step.name()}, takes {takes} but {giver} gives {given!r} in recipe: {bound}"
            )
        given, giver = step.formats[given], f"step {number}"
    if bound.runtime is not None and given not in bound.runtime.formats:
        serves = " or ".join(repr(name) for name in sorted(bound.runtime.formats))
        raise RecipeError(f"{bound.runtime.name()} serves {serves} but {giver} gives {given!r} in recipe: {bound}")
    return given


def available(kind: str) -> tuple[dict[str, type], dict[str, str]]:
    """Return the things of one registry that can be imported here, and a reason for each that cannot."""
    things, reasons = {}, {}
    for name in registry(kind).names():
        try:
            things[name] = registry(kind).take(name)
        except MissingExtra as error:
            reasons[name] = str(error)
    return things, reasons


def split_model(text: str) -> tuple[str, Recipe]:
    """Split a model's text into the source's reference and the recipe that makes the base.

    >>> ref, recipe = split_model("zoo:resnet(width=16) | train(epochs=5)")
    >>> ref, str(recipe)
    ('zoo:resnet(width=16)', 'train(epochs=5)')
    """
    ref, *steps = split(text, "|")
    last = steps[-1] if steps else ref
    chain, *runtimes = split(last, "@")
    if runtimes and not steps:
        return chain.strip(), Recipe.parse(f"@ {runtimes[0]}")
    return ref.strip(), Recipe.parse("|".join(steps))
