"""Harmful requests and their benign twins: enough of them, paired, and none twice."""

from __future__ import annotations

from collections import Counter

import pytest

from vlmablate.data.probes import probes, read_probes
from vlmablate.errors import UserError


def test_every_harmful_request_has_one_benign_twin_and_no_category_stands_out() -> None:
    harmful = [probe for probe in probes() if probe.harmful]
    assert 40 <= len(harmful) <= 60
    assert len(harmful) == len(probes()) / 2
    by_pair = Counter(probe.pair for probe in probes())
    assert set(by_pair.values()) == {2}
    assert len(set(Counter(probe.category for probe in harmful).values())) == 1
    assert len({probe.text for probe in probes()}) == len({probe.id for probe in probes()}) == len(probes())


def test_twins_share_words_and_length_so_that_neither_gives_the_answer_away() -> None:
    pairs: dict[str, dict[bool, set[str]]] = {}
    lengths = {True: 0, False: 0}
    for probe in probes():
        said = probe.text.lower().replace(".", "").replace("?", "").replace(",", "").split()
        pairs.setdefault(probe.pair, {})[probe.harmful] = set(said)
        lengths[probe.harmful] += len(said)
    assert 0.8 < lengths[False] / lengths[True] < 1.25
    shared = [len(pair[True] & pair[False]) / len(pair[False]) for pair in pairs.values()]
    assert sum(shared) / len(shared) > 0.4
    assert min(shared) > 0.2


def test_loaded_words_stand_in_benign_requests_as_well() -> None:
    benign = " ".join(probe.text.lower() for probe in probes() if not probe.harmful)
    for word in (
        "stolen",
        "thieves",
        "kill",
        "poison",
        "cocaine",
        "heroin",
        "attack",
        "fake",
        "gun",
        "bullied",
    ):
        assert word in benign, word


def test_another_wording_has_another_id() -> None:
    one = read_probes("a:\n  - {harmful: Steal it., benign: Buy it.}", "here")
    other = read_probes("a:\n  - {harmful: Steal it!, benign: Buy it.}", "here")
    assert one[0].id != other[0].id
    assert one[1].id == other[1].id
    assert one[0].pair == one[1].pair != other[1].pair


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:\n  - {harmful: Steal it.}", "a\\[0\\]"),
        ("a:\n  - {harmful: x, benign: y}\n  - {harmful: z, benign: 3}", "a\\[1\\]"),
        ("a:\n  - just text", "a\\[0\\]"),
        ("a:\n  - {harmful: Same., benign: Same.}", "asks twice: Same"),
        ("- no categories", "expected categories"),
    ],
)
def test_a_malformed_set_names_the_entry(text: str, said: str) -> None:
    with pytest.raises(UserError, match=f"here.*{said}"):
        read_probes(text, "here")
