"""Hundreds of calls in flight, in memory that does not grow.

How fast they are is measured by `unireason bench calls`: times of a machine that others share
cannot be asserted.
"""

from unireason_jax.endpoints import call_cost

IN_FLIGHT = 200


def test_a_thousand_calls_with_two_hundred_in_flight():
    found = call_cost.run(calls=1_000, in_flight=IN_FLIGHT, seconds=0.05, rounds=1)
    assert found["most"] == IN_FLIGHT
    assert found["grown_kib"] < 20_000
    assert found["server_ms"] > 0
    wave = IN_FLIGHT * found["ours"]["cpu_ms"] / 1e3
    assert abs(found["ours"]["in_step"] - 0.05 / (0.05 + wave)) < 1e-3
