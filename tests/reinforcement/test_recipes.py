"""The recipes: what each of them reinforces, and that it is a policy that can be."""

import pytest

from unireason_jax.reinforcement import settings
from unireason_jax.run import configuration
from unireason_jax.run.configuration import ConfigError
from unireason_jax.world.tasks import HARD_TASKS

RECIPES = {  # (template, text, flow)
    "rl_reflect.py": ("refine_t2i", True, True),
    "rl_reflect.py:text": ("refine_t2i", True, False),
    "rl_reflect.py:flow": ("refine_t2i", False, True),
    "rl_t2i.py": ("t2i", False, True),
    "rl_t2i.py:think": ("think_t2i", True, True),
    "rl_hard.py": ("refine_t2i", True, True),
    "rl_hard.py:flow": ("refine_t2i", False, True),
    "rl_hard.py:t2i": ("t2i", False, True),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_reinforces_what_it_says(name):
    policy = settings.policy(configuration.load(f"configs/{name}"))
    found = policy.template, policy.text.weight > 0, policy.flow.weight > 0
    assert found == RECIPES[name] and policy.has_reference
    asked = {task for task, _ in policy.tasks}
    assert asked <= set(HARD_TASKS) if "hard" in name else not asked & set(HARD_TASKS)


def test_bagel_is_judged_by_a_service():
    changes = {"rl.prompts_from": "p.jsonl", "rl.reward.url": "http://127.0.0.1:9"}
    policy = settings.policy(configuration.load("configs/rl_bagel.py", changes))
    # Three rounds of the longest texts and of all copies of 512 pixels fit into a row.
    assert policy.budgets.latent >= (1 + 3 * (1 + policy.window)) * 1024
    assert policy.budgets.text >= 4 * policy.max_text
    with pytest.raises(ConfigError, match=r"did you mean rl\.flow\.penalty"):
        configuration.load("configs/rl_bagel.py", {"rl.flow.penality": 1.0})


def test_a_config_of_another_verb_is_told():
    with pytest.raises(ConfigError, match=r"rl_reflect"):
        settings.policy(configuration.load("configs/tiny.py"))
