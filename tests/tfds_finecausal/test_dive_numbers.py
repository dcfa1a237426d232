import pytest

from tfds_finecausal.dive_numbers import DIFFICULTY, parse_dive_number, sub_action_table


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("107b", ("Forward", "3.5 Soms.Pike", "Entry")),
        ("407c", ("Inward", "3.5 Soms.Tuck", "Entry")),
        ("612b", ("Arm.Forward", "1 Som.Pike", "Entry")),
        ("5253b", ("Back", "1.5 Twists", "2.5 Soms.Pike", "Entry")),
        ("6243d", ("Arm.Back", "1.5 Twists", "2 Soms.Pike", "Entry")),
        ("5152b", ("Forward", "2.5 Soms.Pike", "1 Twist", "2.5 Soms.Pike", "Entry")),
    ],
)
def test_sub_actions(text, names):
    assert parse_dive_number(text).sub_actions == names


def test_every_sub_action_has_one_of_42_labels():
    table = sub_action_table()
    assert sorted(table) == list(range(1, 43))
    assert len(set(table.values())) == 42
    assert table[1] == "Forward" and table[42] == "Entry"
    used = {name for text in DIFFICULTY for name in parse_dive_number(text).sub_actions}
    assert used <= set(table.values())


def test_rendered_dives_enter_head_first():
    # Standing starts need an odd number of half somersaults, handstands an even one.
    for text in DIFFICULTY:
        number = parse_dive_number(text)
        assert number.half_somersaults % 2 == (0 if number.armstand else 1), text


def test_difficulties_lie_in_the_range_of_the_real_release():
    values = [value for pair in DIFFICULTY.values() for value in pair if value is not None]
    assert min(values) >= 1.5 and max(values) <= 4.1


@pytest.mark.parametrize("text", ["", "407C", "40c", "40712c", "707c", "4x7c", "5953b", 407])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="is no dive number"):
        parse_dive_number(text)
