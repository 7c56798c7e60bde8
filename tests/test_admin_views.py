"""What is written as JSON: cut, escaped, and read back as it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tickrunner_trio.admin._views import LONGEST_ERROR, as_json, cut


@given(text=st.text(st.characters()))
def test_json_reads_back_as_it_was_and_holds_nothing_that_html_obeys(text: str) -> None:
    written = as_json({"error": text})
    assert json.loads(written) == {"error": text}
    assert written.isascii()
    assert not set(b"<>&\n\r\0") & set(written)


@example(text="x" * (LONGEST_ERROR + 1))
@given(text=st.text(max_size=3 * LONGEST_ERROR))
def test_a_text_is_cut_to_its_beginning_and_says_how_much_is_left_out(text: str) -> None:
    shown = cut(text)
    if len(text) <= LONGEST_ERROR:
        assert shown == text
    else:
        assert shown == f"{text[:LONGEST_ERROR]}... ({len(text) - LONGEST_ERROR:,} more characters)"


def test_no_number_is_written_that_json_does_not_have() -> None:
    with pytest.raises(ValueError, match="JSON"):
        as_json(float("nan"))
