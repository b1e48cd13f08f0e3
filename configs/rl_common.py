"""Every key of a config of `unireason rl` with its default; the recipes start from here.

Model, tokenizer and codec are those of the checkpoint in `init_from`; `lora`, `optim`, `train` and
`mesh` are as in training. The values of `rl` follow UMM-Reflection and UniGRPO, scaled down.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    whole = common.get_config()
    config = ConfigDict(
        {
            "seed": 0,
            # A training run or a converted folder whose weights are reinforced.
            "init_from": "",
            "init_which": "ema",
            "lora": whole.lora,
            "optim": whole.optim,
            "train": whole.train,
            "mesh": whole.mesh,
        }
    )
    config.optim.lr, config.optim.ema = 5e-6, 0.9
    config.optim.b2, config.optim.eps = 0.999, 1e-8
    config.train.steps, config.train.log_every, config.train.save_every = 300, 1, 10
    config.rl = ConfigDict(
        {
            # refine_t2i: whole trajectories behind a plan and a draft that siblings share;
            # think_t2i: a plan and a picture; t2i: a picture.
            "template": "refine_t2i",
            # Prompts of an iteration, siblings of each, most rounds of a trajectory.
            "prompts": 4,
            "group": 8,
            "rounds": 2,
            # Shares of the world's tasks that prompts are taken from; refine_t2i gives drafts too,
            # half of them faulty.
            "tasks": {"t2i": 1.0, "refine_t2i": 0.0, "knowledge": 0.0, "hard_t2i": 0.0},
            # Or files of prompts, as `generate --prompts` takes them, and a reward service.
            # wrong_stop: what stopping at a wrong picture costs.
            "prompts_from": "",
            "held_out": "",
            "reward": {"url": "", "key": "", "concurrency": 8, "right": 1.0, "wrong_stop": 0.5},
            # Of sampled texts; and points in flow time of a drawing, 0: as the checkpoint samples.
            "temperature": 0.9,
            "max_text": 64,
            "timesteps": 0,
            # So many stochastic steps of level `noise`, among the first `within`.
            "window": 2,
            "within": 6,
            "noise": 0.8,
            # Conversations that are rolled out together; updates on the same rollouts.
            "batch_rows": 64,
            "updates": 1,
            # Advantages: (reward - mean of the group) / "std", "floored_std" (at least 0.1) or
            # "none", clipped.
            "scale": "floored_std",
            "advantage_clip": 1.0,
            # The two losses; weight 0 switches one off. kl and penalty hold to the first weights.
            "text": {"weight": 1.0, "clip": 0.2, "kl": 1e-4},
            "flow": {"weight": 2.0, "clip": 1e-5, "penalty": 1.5e-5},
            # Rows of a microbatch, and the tokens of a row by stream.
            "rows": 4,
            "budgets": {"text": 512, "vit": 128, "latent": 256},
            # Iterations between examinations on held-out prompts, 0: none; and how many prompts.
            "eval_every": 0,
            "eval_prompts": 128,
            # Iterations between pictures of trajectories; 0: none.
            "show_every": 0,
        }
    )
    return config
