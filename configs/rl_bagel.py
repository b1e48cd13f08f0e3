"""Reinforcement of reflection trajectories for BAGEL and UniReason, judged by a reward service.

Command:  unireason rl --config configs/rl_bagel.py --workdir runs/rl
          --config.init_from=checkpoints/unireason --config.rl.prompts_from=prompts.jsonl
          --config.rl.reward.url=http://HOST:PORT
Memory:   compiled, not run (launch/README.md, "Reinforcement of 7B"): 39.4 of 95.7 GiB a chip on
          v5p-64 (--config.mesh.preset=v5p --config.rl.rows=32), 60.2 of 139.8 GiB on 8 H200
          (--config.mesh.preset=h200); rollouts take 27.4 and 14.9.
          The weights, their moments and the reference take 217 GiB in float32, gradients 54 GiB.
Pods:     The same command on every host: each samples its share of the siblings on its own chips,
          with a copy of the weights that is made anew every iteration (27 GiB in bfloat16, spread
          over the chips of the host, where tokens gather no weights), and one step is taken on the
          mesh. rl.rows has to be a multiple of data x fsdp: 32 on v5p-64, or 8 with
          --config.mesh.context=4. Fewer siblings (prompts x group) than hosts leave some idle.
Time:     not measured.
Values:   UMM-Reflection's: 512 pixels, 20 points, 2 of the first 10 steps stochastic, 16 siblings.
Twin:     configs/rl_reflect.py reinforces the same in the world, on a CPU.
"""

from ml_collections import ConfigDict

from configs import bagel_finetune, rl_common


def get_config() -> ConfigDict:
    # The model and its rows are for compile_check; a run has those of its weights.
    config = bagel_finetune.get_config()
    config.rl = rl_common.get_config().rl
    config.init_from = "checkpoints/unireason"
    config.train.steps, config.train.log_every, config.train.save_every = 1000, 1, 20
    config.optim.lr, config.optim.warmup_steps, config.optim.ema = 5e-6, 0, 0.0
    config.optim.b2, config.optim.eps = 0.999, 1e-8
    config.model.remat = "full"
    rl = config.rl
    rl.prompts, rl.group, rl.rounds, rl.max_text = 2, 16, 3, 512
    rl.timesteps, rl.window, rl.within, rl.noise, rl.batch_rows = 20, 2, 10, 1.0, 16
    # A trajectory of three rounds at 512 pixels: 10 copies of 1,024 latents, four of 1,296 patches.
    rl.budgets = ConfigDict({"text": 3072, "vit": 5376, "latent": 10_240})
    rl.rows = 8
    return config
