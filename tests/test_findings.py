import pytest

from cxr.findings import FINDINGS, parse_findings, require_same_findings


def vector(*ones):
    return tuple(int(place in ones) for place in range(14))


def test_the_14_findings_are_in_the_order_of_the_published_tables():
    assert len(FINDINGS) == 14
    assert FINDINGS[0] == "Atelectasis"
    assert FINDINGS[3] == "Infiltration"
    assert FINDINGS[12:] == ("Pleural_Thickening", "Hernia")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No Finding", vector()),
        ("Atelectasis", vector(0)),
        ("Hernia|Atelectasis", vector(0, 13)),  # the order of the cell does not matter
        ("Cardiomegaly|Cardiomegaly", vector(1)),  # a repeated name counts once
        (" Mass | Nodule ", vector(4, 5)),  # spaces around names
        ("Infiltrate", vector(3)),  # the name in the list of boxes
        ("|".join(FINDINGS), (1,) * 14),
    ],
)
def test_a_cell_becomes_a_multi_hot_vector(text, expected):
    assert parse_findings(text) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Pneumonitis", "'Pneumonitis'"),
        ("Mass|Tumour", "'Tumour'"),
        ("mass", "'mass'"),  # names are exact
        ("", "''"),
        ("Mass|", "''"),
        ("No Finding|Mass", "'No Finding'"),  # a contradiction
    ],
)
def test_an_unknown_finding_is_named(text, named):
    with pytest.raises(ValueError, match=f"unknown finding {named} in .*; expected 'No Finding' or names of the 14"):
        parse_findings(text)


@pytest.mark.parametrize("found", [FINDINGS[:13], FINDINGS[::-1], [*FINDINGS, "No Finding"], []])
def test_other_findings_are_rejected(found):
    with pytest.raises(ValueError, match=r"old/dataset\.json has the findings .*; this code works with Atelectasis"):
        require_same_findings(list(found), "old/dataset.json")


def test_the_same_findings_pass():
    require_same_findings(list(FINDINGS), "dataset.json")
