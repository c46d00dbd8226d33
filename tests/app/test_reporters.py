from __future__ import annotations

from luthier.app.reporters import format_prediction


def test_a_prediction_of_several_facts_names_each() -> None:
    assert (
        format_prediction({"row": 3, "anomaly_score": 0.1234567, "anomalous": True}, as_json=False)
        == "anomaly score 0.123457  anomalous yes"
    )


def test_a_prediction_of_one_number_or_of_several_labels_stands_alone() -> None:
    assert format_prediction({"row": 1, "stars": 4.25}, as_json=False) == "4.25"
    assert format_prediction({"topics": ["food", "music"], "probabilities": {"food": 0.9}}, as_json=False) == "food; music"
    assert format_prediction({"topics": [], "probabilities": {"food": 0.1}}, as_json=False) == "(no label)"
