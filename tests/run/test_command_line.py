"""Flags that there are not: said by name, with the one that is meant."""

import pytest

from unireason_jax import evaluate, generate, new, serve
from unireason_jax.run import command_line

ASKED = ["--checkpoint", "run", "--out", "pictures", "--prompt", "a red circle"]


def refused(parser, argv, capsys):
    """What ends a command line that cannot be read."""
    with pytest.raises(SystemExit) as ended:
        command_line.run(parser, lambda given: None, argv)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "flag", [["--negative_prompt", "blue"], ["--negative-prompt=blue"], ["--negative_prompt"]]
)
def test_a_negative_prompt_is_refused_as_everywhere_else(flag, capsys):
    told = refused(generate.parser(), [*ASKED, *flag], capsys)
    assert told.startswith("error: 'negative_prompt' is not supported: guidance leads away")
    assert "say in the prompt" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        (generate, [*ASKED, "--cfg_scale", "4"], "unknown flag --cfg_scale, did you mean --guid"),
        (generate, [*ASKED, "--steps=9", "--solvr=heun"], "did you mean --timesteps?; unknown fla"),
        (generate, [*ASKED, "on", "snow"], "unknown argument 'on'; a text of several words stand"),
        (evaluate, [*ASKED[:4], "--num-steps", "9"], "--num-steps, did you mean --timesteps?"),
        (serve, [*ASKED[:2], "--prot", "80"], "unknown flag --prot, did you mean --port?"),
        (new, ["mine", "--frobnicate"], "error: unknown flag --frobnicate; --help lists"),
    ],
)
def test_an_unknown_flag_is_told_with_the_one_that_is_meant(verb, words, message, capsys):
    told = refused(verb.parser(), words, capsys)
    assert message in told and told.count("\n") == 1
