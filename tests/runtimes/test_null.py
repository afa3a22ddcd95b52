import pytest

from trimtab.errors import CorruptFile, RecipeError
from trimtab.runtimes.null import Null
from trimtab.values.model import Model
from trimtab.values.notation import Step


def test_it_is_written_and_read_as_a_step():
    assert str(Null(delay_ms=2)) == "null(delay_ms=2)"
    assert Step.parse("null(delay_ms=2.0, fail=crash)").build(Null) == Null(delay_ms=2.0, fail="crash")


def test_unknown_faults_are_named():
    with pytest.raises(RecipeError, match="fail is one of crash, exit, hang"):
        Step.parse("null(fail=fire)").build(Null)


def test_weights_that_are_not_there_are_told(make_null, machine):
    folder = make_null()
    (folder / "main" / "weights.npz").write_bytes(b"nothing")
    with pytest.raises(CorruptFile, match=r"weights.npz"):
        Null().load(Model.open(folder), machine)
