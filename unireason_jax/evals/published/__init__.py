"""Scorers of public benchmarks: formats, layouts, answers and formulas, without a network."""

from unireason_jax.evals.published import (
    corebench,
    dpg,
    gedit,
    geneval,
    imgedit,
    kris,
    rise,
    tiif,
    uniredit,
    wise,
)

SUITES = {
    suite.name: suite
    for suite in (
        wise.VERIFIED_SUITE,
        wise.SUITE,
        geneval.SUITE,
        kris.SUITE,
        uniredit.SUITE,
        gedit.SUITE,
        imgedit.SUITE,
        dpg.SUITE,
        tiif.SUITE,
        rise.SUITE,
        corebench.SUITE,
    )
}
