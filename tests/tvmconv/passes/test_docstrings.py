"""Every file with a pass says what it does under four headings, out of which docs/passes.md is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def generate() -> Any:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def test_every_file_with_a_pass_has_the_four_headings_in_order(generate: Any) -> None:
    docs = generate.pass_docs()
    assert {"fold_layouts", "scale_and_shift", "merge_equal", "regions"} <= set(docs)
    for name, text in docs.items():
        lines = text.splitlines()
        starts = [
            next((i for i, line in enumerate(lines) if line.startswith(f"{heading}:")), -1)
            for heading in generate.HEADINGS
        ]
        assert -1 not in starts, name
        assert starts == sorted(starts), name
        assert lines[0].endswith("."), name
        assert not lines[1], name


def test_every_pass_of_a_build_is_documented(generate: Any) -> None:
    ours = {name for name in generate.pass_order() if name.islower()}  # TVM's have capitals
    assert ours == set(generate.pass_docs())


def test_a_pass_that_no_build_uses_is_told(
    generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headings = "".join(f"{heading}: nothing\n" for heading in generate.HEADINGS)
    (tmp_path / "forgotten.py").write_text(f'"""A pass.\n\n{headings}"""\n')
    monkeypatch.setattr(generate, "PASSES", tmp_path)
    with pytest.raises(ValueError, match="forgotten"):
        generate.pass_docs()


def test_passes_are_listed_in_the_order_in_which_they_run(generate: Any) -> None:
    order = list(generate.pass_docs())
    assert order.index("scale_and_shift") < order.index("merge_equal") < order.index("regions")
    assert order.index("lower_convs") < order.index("default_schedules")
