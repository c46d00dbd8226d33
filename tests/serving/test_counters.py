"""Counts in the form that Prometheus reads."""

from __future__ import annotations

import re
import threading

from luthier.serving.counters import Counters

LINE = re.compile(r'^[a-z_]+(\{([a-z]+="([^"\\\n]|\\.)*"(,[a-z]+="([^"\\\n]|\\.)*")*)?\})? -?[0-9.e+]+$')


def test_every_line_is_prometheus_text() -> None:
    counters = Counters()
    counters.add("luthier_requests_total", route='/a"b\\c\nd', status="200")
    counters.observe(0.02, route="/x")
    counters.observe(99, route="/x")
    lines = counters.render([("luthier_ready", {}, 1.0)]).splitlines()
    for line in lines:
        assert line.startswith("# ") or LINE.match(line), line
    assert 'luthier_request_seconds_bucket{route="/x",le="0.01"} 0' in lines
    assert 'luthier_request_seconds_bucket{route="/x",le="0.025"} 1' in lines
    assert 'luthier_request_seconds_bucket{route="/x",le="30"} 1' in lines
    assert 'luthier_request_seconds_bucket{route="/x",le="+Inf"} 2' in lines
    assert 'luthier_request_seconds_sum{route="/x"} 99.020000' in lines
    assert "luthier_ready 1" in lines
    assert "# TYPE luthier_ready gauge" in lines


def test_counts_of_many_threads_are_all_there() -> None:
    counters = Counters()
    threads = [threading.Thread(target=lambda: [counters.add("luthier_rows_total", 2, kind="x") for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.total("luthier_rows_total") == counters.total("luthier_rows_total", kind="x") == 8000
    assert counters.total("luthier_rows_total", kind="y") == 0
