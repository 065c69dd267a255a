"""`benchmarks.hmma_numerics`, with a card that is another model of this project."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import hmma_numerics, hmma_tiles
from benchmarks.hmma_numerics import FORMS, all_equal
from benchmarks.hmma_tiles import KINDS
from intrinsics.numerics.arithmetic import H100, Numerics
from intrinsics.record import TensorIntrinsic
from tests.support import sass
from tests.support.thinned import thinned
from tvmconv.runtime import gpu


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(numerics: Numerics) -> None:
        def run(_: Path, instruction: TensorIntrinsic, operands: list[Any]) -> Any:
            return hmma_numerics.computed(instruction, operands, numerics)

        monkeypatch.setattr(hmma_numerics, "on_card", run)
        monkeypatch.setattr(hmma_numerics, "BATCH", 150)

    return use


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_variant_is_told_from_the_model(
    form: TensorIntrinsic, card: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    card(H100)
    assert all_equal(hmma_numerics.check_form(Path(), form, 1, 0))
    said = capsys.readouterr().out
    for kind in KINDS:
        assert f"{kind:15}     19200 of     19200 equal" in said
    assert "variant" in said
    assert "not equal: none" not in said


@pytest.mark.parametrize(
    ("change", "name"),
    [({"extra_bits": 3}, "3 extra bits"), ({"joined": False}, "accumulator added after")],
)
def test_a_card_that_differs_is_seen_and_its_variant_named(
    change: dict[str, Any], name: str, card: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    card(replace(H100, **change))
    assert not all_equal(hmma_numerics.check_form(Path(), FORMS[0], 1, 1))
    said = capsys.readouterr().out
    assert "card " in said
    right = [line for line in said.splitlines() if line.endswith("not equal: none")]
    assert len(right) == 1
    assert f"variant {name}:" in right[0]


def test_counts_are_written(
    card: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card(replace(H100, extra_bits=3))
    monkeypatch.setattr(hmma_numerics, "compile_form", lambda *arguments: Path())
    path = tmp_path / "a.json"
    arguments = ["--outputs", "1", "--show", "0", "--out", str(path), "--commit", "abc"]
    monkeypatch.setattr("sys.argv", ["hmma_numerics", *arguments])
    with pytest.raises(SystemExit, match="1"):
        hmma_numerics.main()
    document = json.loads(path.read_text())
    assert document["machine"]["commit"] == "abc"
    assert [row["form"] for row in document["rows"]] == [f.name for f in FORMS for _ in KINDS]
    row = document["rows"][0]
    assert 0 < row["equal"] < row["outputs"] == 19200
    assert row["variants"]["3 extra bits"] == 0 < row["variants"]["1 extra bits"]
    assert capsys.readouterr().out.count("NOT all equal") == len(FORMS)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_are_of_the_kind(kind: str, form: TensorIntrinsic) -> None:
    a, b, c = hmma_tiles.tiles(form, kind, 100, seed=0)
    assert (a.shape, b.shape, c.shape) == ((100, 16, 16), (100, 16, 8), (100, 16, 8))
    assert c.dtype == form.accumulator_dtype
    finite = np.isfinite(a).all() and np.isfinite(b).all()
    assert finite == (kind != "special")
    if kind == "subnormal":
        least = 2.0**-14 if form.a_dtype == "float16" else 2.0**-126
        assert ((np.abs(a) < least) & (a != 0)).mean() > 0.2
    if kind == "cancellation":
        wide = [x.astype(np.float64) for x in (a, b, c)]
        total, size = wide[0] @ wide[1], np.abs(wide[0]) @ np.abs(wide[1])
        assert (np.abs(total) <= size * 2.0**-5).mean() > 0.3


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.skipif(not sass.available(), reason="no cuobjdump")
@pytest.mark.parametrize(
    ("form", "name"),
    thinned(list(zip(FORMS, ("F32", "F16", "F32.BF16"), strict=True)), 3),
    ids=("fp32", "fp16", "bf16"),
)
def test_a_form_compiles_to_its_one_instruction(
    form: TensorIntrinsic, name: str, tmp_path: Path
) -> None:
    library = hmma_numerics.compile_form(form, tmp_path, "sm_90a")
    (text,) = sass.kernels(library).values()
    assert re.findall(r"HMMA\.\S+", text) == [f"HMMA.16816.{name}"]


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_hopper_card_gives_every_bit(form: TensorIntrinsic, tmp_path: Path) -> None:
    if not str(gpu.detect_arch()).startswith("sm_90"):
        pytest.skip("no Hopper card")
    library = hmma_numerics.compile_form(form, tmp_path, "sm_90a")
    assert all_equal(hmma_numerics.check_form(library, form, 1, 3))
