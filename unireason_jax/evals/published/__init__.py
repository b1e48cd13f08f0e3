"""Scorers of public benchmarks: formats, layouts, answers and formulas, without a network."""

from unireason_jax.evals.published import (
    compbench,
    corebench,
    dpg,
    gedit,
    geneval,
    geneval2,
    imgedit,
    kris,
    oneig,
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
        geneval2.SUITE,
        oneig.SUITE,
        compbench.SUITE,
    )
}
