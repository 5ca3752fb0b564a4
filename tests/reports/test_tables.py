from kdcache.reports.tables import text_table


def test_columns_are_even() -> None:
    assert text_table(["", "top-1"], [["student alone", "93 %"], ["Lift", "100.0 %"]]).splitlines() == [
        "                 top-1",
        "-------------  -------",
        "student alone     93 %",
        "Lift           100.0 %",
    ]
